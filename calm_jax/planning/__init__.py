"""Ahead-of-time compilation: does a run fit, and how fast can it be."""

PROGRAMS = ("evaluate", "generate")  # what `programs` plans beside training
