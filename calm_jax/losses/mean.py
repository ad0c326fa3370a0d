"""Means kept as totals and counts, so that they can be merged."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Mean(NamedTuple):
  """A mean that can be merged: total over count."""

  total: float | jax.Array  # [] float32
  count: float | jax.Array  # [] float32


Means = Mapping[str, Mean]


def masked_mean(values: jax.Array, mask: jax.Array) -> Mean:
  """The mean of values, [...], where mask, [...] bool, is True.

  What stands elsewhere may be anything, NaN included.
  """
  total = jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0))
  return Mean(total, jnp.sum(mask, dtype=jnp.float32))


def merge(first: Means, second: Means) -> dict[str, Mean]:
  """Adds what both have by name; a name that only one has stays as it is."""
  merged = {**first, **second}
  for name in first.keys() & second.keys():
    merged[name] = Mean(
      first[name].total + second[name].total,
      first[name].count + second[name].count,
    )
  return merged


def compute(means: Means) -> dict[str, float]:
  """The means, by name; a mean over nothing is left out."""
  return {
    name: float(item.total) / float(item.count)
    for name, item in means.items()
    if item.count
  }
