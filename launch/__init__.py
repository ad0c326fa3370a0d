"""Binaries: flags and wiring only."""
