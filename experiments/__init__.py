"""Experiments as data: a file has `get_config(argument)` or `get_sweep`."""
