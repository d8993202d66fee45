"""The report of a run: one HTML page that needs nothing but itself, and its tables in Markdown and JSON."""
