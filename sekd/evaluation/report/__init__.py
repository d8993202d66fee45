"""The report of a run from its ``scores.json``: one HTML page that loads nothing else, and its tables in Markdown."""
