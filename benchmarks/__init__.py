"""Speed compared with the obvious alternatives: ``make bench``."""
