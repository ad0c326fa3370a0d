"""bfloat16 arrays as whole numbers, for programs that slice them on a CPU.

Up to jax 0.11.1 XLA has no slice of bfloat16 there: it slices in float32, and
first writes the whole array so, twice as large, at every call.
"""

from typing import Any

import jax
import jax.numpy as jnp

_IS_NEEDED = jax.__version_info__ < (0, 11, 2)


def to_bits(tree: Any) -> Any:
  """The bfloat16 arrays of a tree as uint16, if that helps; others as such."""
  return _read_as(tree, jnp.bfloat16, jnp.uint16) if _IS_NEEDED else tree


def from_bits(tree: Any) -> Any:
  """Arrays of `to_bits`, or parts of them, as they were."""
  return _read_as(tree, jnp.uint16, jnp.bfloat16)


def _read_as(tree, old, new):
  def read(x):
    return jax.lax.bitcast_convert_type(x, new) if x.dtype == old else x

  return jax.tree.map(read, tree)
