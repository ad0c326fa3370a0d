"""Random keys as a function of (seed, stream, step, row, chunk, sample).

No draw depends on a host, a shard, a batch size or a block size: every draw
starts from the key of its own position, and a sample adds its number to it.
"""

import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# By name: what JAX_DEFAULT_PRNG_IMPL may name instead gives other numbers for
# other shapes, so that draws would depend on the batch.
_GENERATOR = "threefry2x32"


def root_key(seed: int | jax.Array) -> jax.Array:
  """A typed key of the generator that all keys here are of, []."""
  return jax.random.key(seed, impl=_GENERATOR)


def stream_key(seed: int, stream: str, step: int | jax.Array = 0) -> jax.Array:
  """The key of one named use of randomness at one step.

  Args:
    seed: of the run, from 0 to 2³² − 1.
    stream: a name, such as "head_noise"; streams are independent.
    step: of training; 0 in evaluation and generation.

  Returns:
    A typed key, [].

  Raises:
    ValueError: for another seed, whose higher bits would be dropped.
  """
  check_seed(seed)
  return _fold(np.uint32(seed), np.uint32(zlib.crc32(stream.encode())), step)


@jax.jit
def _fold(seed: jax.Array, stream: jax.Array, step: jax.Array) -> jax.Array:
  """Compiled, because folds one by one take milliseconds."""
  return jax.random.fold_in(jax.random.fold_in(root_key(seed), stream), step)


def check_seed(seed: int) -> None:
  """Raises ValueError for a seed that is none."""
  if not 0 <= seed < 2**32:
    raise ValueError(f"seed is {seed}; it lies between 0 and 2**32 - 1.")


def position_keys(
  key: jax.Array, row_ids: jax.Array, chunk_ids: jax.Array
) -> jax.Array:
  """One key for each position.

  Args:
    key: from `stream_key`, [].
    row_ids: [B] uint32, the row's index in the global batch or data set.
    chunk_ids: [L] uint32, the chunk's index in its row.

  Returns:
    Typed keys, [B, L].
  """
  row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, row_ids)
  fold_chunks = jax.vmap(jax.random.fold_in, (None, 0))
  return jax.vmap(fold_chunks, (0, None))(row_keys, chunk_ids)


def chunk_keys(
  key: jax.Array, row_ids: jax.Array, num_chunks: int
) -> jax.Array:
  """One key for each chunk of whole rows: typed keys, [B, L]."""
  return position_keys(key, row_ids, jnp.arange(num_chunks, dtype=jnp.uint32))


def sample_keys(keys: jax.Array, sample_ids: jax.Array) -> jax.Array:
  """One key for each sample at each position.

  Args:
    keys: of the positions, [...].
    sample_ids: [N] uint32.

  Returns:
    Typed keys, [..., N].
  """
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  for _ in range(keys.ndim):
    fold = jax.vmap(fold, (0, None))
  return fold(keys, sample_ids)


def draw(draw_fn: Callable[[jax.Array], Any], keys: jax.Array) -> Any:
  """Draws with each key by itself.

  Args:
    draw_fn: of one key; gives an array or a tree of arrays, [*shape].
    keys: [...].

  Returns:
    Its results, [..., *shape].
  """
  # Nested, since flattening would gather keys that are split over devices.
  for _ in range(keys.ndim):
    draw_fn = jax.vmap(draw_fn)
  return draw_fn(keys)
