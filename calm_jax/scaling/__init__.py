"""Accounting, laws and pictures: what a run cost and what it would buy."""
