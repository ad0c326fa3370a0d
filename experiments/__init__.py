"""Experiments as data: each file has `get_config(argument)`."""
