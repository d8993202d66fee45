"""Makes the embedded base model: ``make base``. Nothing that uses the package imports this."""
