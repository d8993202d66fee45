"""Three ways to ask, side by side: generations, scores with intervals, the report, and prediction for use."""
