"""``make base``: pretrains the embedded base model. The package does not import this."""
