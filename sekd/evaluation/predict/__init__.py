"""The student at work: names the path of a user's own images."""
