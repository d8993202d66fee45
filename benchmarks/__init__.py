"""Speed against the obvious alternatives: ``make bench``."""
