"""Prediction: the paths of a user's own images."""
