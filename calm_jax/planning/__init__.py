"""Ahead-of-time compilation: does a run fit, and how fast can it be."""
