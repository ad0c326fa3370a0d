"""Kinds of models: one file each for everything that depends on the kind."""

from calm_jax.families.family import Family, Model, Objective, ScoresFn, Work
from calm_jax.families.published import Published
from calm_jax.families.table import (
  FAMILIES,
  build_model,
  family_of,
  init_params,
  param_axes,
  param_shapes,
)

__all__ = [
  "FAMILIES",
  "Family",
  "Model",
  "Objective",
  "Published",
  "ScoresFn",
  "Work",
  "build_model",
  "family_of",
  "init_params",
  "param_axes",
  "param_shapes",
]
