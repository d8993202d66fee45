"""Evaluation of the prompting strategies: generations, scores with intervals, the report; and prediction."""
