"""bfloat16 arrays as whole numbers, for programs that slice them on a CPU.

XLA has no slice of bfloat16 there (jax 0.10): it slices in float32, and writes
the whole array in float32 first, twice as large and at every call.
"""

from typing import Any

import jax
import jax.numpy as jnp


def to_bits(tree: Any) -> Any:
  """The bfloat16 arrays of a tree as uint16; others stay as they are."""
  return _read_as(tree, jnp.bfloat16, jnp.uint16)


def from_bits(tree: Any) -> Any:
  """Arrays of `to_bits`, or parts of them, as they were."""
  return _read_as(tree, jnp.uint16, jnp.bfloat16)


def _read_as(tree, old, new):
  def read(x):
    return jax.lax.bitcast_convert_type(x, new) if x.dtype == old else x

  return jax.tree.map(read, tree)
