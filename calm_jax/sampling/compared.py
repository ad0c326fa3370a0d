"""Tokens of sampled chunks, as far as scores of prefixes look at them.

Whether a sample's first n tokens are right, or those of another sample, is
settled by the first token that is neither; what follows it need not be read.
Reading tokens, with a product over the vocabulary for each, is most of what
scoring a model costs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_NUM_BLOCKS = 8  # into which the samples of a turn are cut, if all are needed


def read_compared(
  read_fn: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  labels: jax.Array,
  *,
  num_tokens: int,
  closing_id: int | None = None,
) -> jax.Array:
  """Reads the tokens of each sample up to the first that differs.

  A token is read if those before it are all right, or all those of another
  sample of the position.

  Args:
    read_fn: [Q, E] → ids [Q], each of its own vector alone.
    x: [P, S, K, E], what the tokens are read from.
    labels: [P, K] int32, the right ones.
    num_tokens: of a chunk that are compared, at most K.
    closing_id: chunks are closed behind it, see `data.batch.close`; None: not.

  Returns:
    [P, S, K] int32, the tokens; any others where none is needed.
  """
  num_positions, num_samples, chunk_size, _ = x.shape
  is_closed = jnp.zeros((num_positions, num_samples), bool)
  is_right = jnp.ones((num_positions, num_samples), bool)
  others = ~np.eye(num_samples, dtype=bool)[None]
  is_pair = jnp.broadcast_to(others, (*is_right.shape, num_samples))
  columns = []
  for n in range(num_tokens):
    is_needed = (is_right | jnp.any(is_pair, axis=-1)) & ~is_closed
    flat = x[:, :, n].reshape(-1, x.shape[-1])
    column = _read_needed(read_fn, flat, is_needed.reshape(-1))
    column = column.reshape(is_right.shape)
    if closing_id is not None:
      column = jnp.where(is_closed, closing_id, column)
      is_closed |= column == closing_id
    is_right &= column == labels[:, None, n]
    is_pair &= column[:, :, None] == column[:, None, :]
    columns.append(column)
  tokens = jnp.stack(columns, axis=-1)
  rest = chunk_size - num_tokens
  return jnp.pad(tokens, ((0, 0), (0, 0), (0, rest)))


def _read_needed(
  read_fn: Callable[[jax.Array], jax.Array], x: jax.Array, is_needed: jax.Array
) -> jax.Array:
  """[Q, E] and [Q] bool → ids [Q]; 0 where none is needed, if not read."""
  num_all = len(x)
  size = -(-num_all // _NUM_BLOCKS)
  # Those that are needed come first, and are read a block at a time.
  order = jnp.argsort(~is_needed, stable=True)
  order = jnp.pad(order, (0, -num_all % size), constant_values=num_all)
  num_needed = jnp.sum(is_needed)

  def read_block(carry):
    start, ids = carry
    index = jax.lax.dynamic_slice_in_dim(order, start, size)
    new = read_fn(x.at[index].get(mode="clip"))
    return start + size, ids.at[index].set(new, mode="drop")

  _, ids = jax.lax.while_loop(
    lambda carry: carry[0] < num_needed,
    read_block,
    (jnp.int32(0), jnp.zeros(num_all, jnp.int32)),
  )
  return ids
