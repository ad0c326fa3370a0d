"""Layers shared by every model."""
