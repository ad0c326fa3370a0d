"""The version of the package; one place, read by setup.cfg."""

__version__ = "0.1.0"
