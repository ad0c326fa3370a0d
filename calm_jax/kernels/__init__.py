"""Fast versions of the definitions in `losses`, with the same signatures."""
