"""The same work on many positions, a bounded number of them at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_blocks(
  call: Callable[..., Any], block_size: int, arrays: Any, *, num_axes: int
) -> Any:
  """Calls a function on blocks of positions, one after another.

  Args:
    call: takes a tree of arrays [n, …], returns a tree of arrays [n, …].
    block_size: positions at once.
    arrays: tree of arrays whose first `num_axes` axes are the positions.
    num_axes: how many.

  Returns:
    What `call` gives for all positions, with their axes in front.
  """
  shape = jax.tree.leaves(arrays)[0].shape[:num_axes]
  flat = jax.tree.map(
    lambda x: jnp.asarray(x).reshape(-1, *x.shape[num_axes:]), arrays
  )
  size = jax.tree.leaves(flat)[0].shape[0]
  if size <= block_size:
    result = call(flat)
  else:
    num_blocks = -(-size // block_size)
    # The last block is filled up with positions that are there already.
    index = jnp.minimum(jnp.arange(num_blocks * block_size), size - 1)
    index = index.reshape(num_blocks, block_size)
    result = jax.lax.map(
      lambda block: call(jax.tree.map(lambda x: x[block], flat)), index
    )
    result = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], result)
  return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), result)
