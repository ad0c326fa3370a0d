"""Visits positions a block at a time."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def scan_positions(
  visit: Callable[[Any, Sequence[jax.Array]], tuple[Any, Any]],
  carry: Any,
  arrays: Sequence[jax.Array],
  max_size: int,
) -> tuple[Any, Any]:
  """`jax.lax.scan` over blocks of positions.

  Args:
    visit: takes the carry and a block of each array; gives the carry and
      arrays with the block's positions first.
    carry: its first value.
    arrays: [P, ...].
    max_size: positions in a block, at most.

  Returns:
    The last carry and the results, [P, ...].
  """
  num_positions = arrays[0].shape[0]
  num_blocks = max(1, -(-num_positions // max(1, max_size)))
  if num_blocks == 1:
    return visit(carry, arrays)
  size = -(-num_positions // num_blocks)
  blocks = [_split(array, num_blocks, size) for array in arrays]
  carry, results = jax.lax.scan(visit, carry, blocks)
  join = lambda a: a.reshape(-1, *a.shape[2:])[:num_positions]
  return carry, jax.tree.map(join, results)


def _split(array, num_blocks, size):
  """[P, ...] → [blocks, size, ...], filled up with zeros."""
  extra = num_blocks * size - array.shape[0]
  if extra:
    array = jnp.pad(array, [(0, extra)] + [(0, 0)] * (array.ndim - 1))
  return array.reshape(num_blocks, size, *array.shape[1:])
