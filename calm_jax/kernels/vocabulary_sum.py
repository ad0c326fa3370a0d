"""Weighted sum of cross-entropies, a block of positions at a time.

`vocabulary.cross_entropy` computes all logits twice, forward and backward: four
products of positions, words and width. Where the weight of every position is
known beforehand, the gradient comes out with the value, in three products, as
many as when all logits are kept. TPUs do with four, see `vocabulary_tiles`.
"""

import functools

import jax
import jax.numpy as jnp

from calm_jax.kernels import per_shard, vocabulary_tiles
from calm_jax.kernels.blocks import scan_positions
from calm_jax.kernels.vocabulary import (
  FAR,
  add_rows,
  cross_entropy,
  label_logits,
  product,
  scan_blocks,
  weighted_slope,
)

# Of the float32 logits of a block of positions: the fewest and most on a CPU.
# Others want large products; each block reads and writes the sum [V, E].
_BLOCK_BYTES_CPU = (2**24, 3 * 2**26)
_BLOCK_BYTES = 2**29
_TURNED_BYTES = 2**25  # of a sum that is kept as [E, V]
_PRODUCT_BYTES = 2**24  # of what is added to a larger one at once
_PART = 4096  # words of which the largest logit is found at once


def cross_entropy_sum(
  hidden: jax.Array,
  embedding: jax.Array,
  labels: jax.Array,
  scored: jax.Array,
  weights: jax.Array,
  partition: jax.sharding.PartitionSpec | None,
  block_bytes: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """As `losses.vocabulary.cross_entropy_sum`, in blocks of positions."""
  weights = jax.lax.stop_gradient(weights.astype(jnp.float32))
  total, nats = _cross_entropy_sum(
    partition, block_bytes, hidden, embedding, labels, scored, weights
  )
  return total, jax.lax.stop_gradient(nats)


def weighted_sum(weights: jax.Array, nats: jax.Array) -> jax.Array:
  """Σ weight · nats; where the weight is 0, nats may be anything, even NaN."""
  return jnp.sum(jnp.where(weights == 0, 0.0, weights * nats))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _cross_entropy_sum(partition, block_bytes, *arrays):
  del partition
  *arrays, weights = arrays
  nats = cross_entropy(*arrays, block_bytes)
  return weighted_sum(weights, nats), nats


def _cross_entropy_sum_forward(partition, block_bytes, *arrays):
  hidden, embedding, labels, scored, weights = arrays

  def visit_all(hidden, labels, weights, embedding, scored):
    shape = labels.shape
    flat = [hidden.reshape(-1, hidden.shape[-1])]
    flat += [labels.reshape(-1), weights.reshape(-1)]
    visit = lambda maximum_fn, num_positions: functools.partial(
      _visit,
      maximum_fn,
      num_positions
      if block_bytes is None
      else block_bytes // (4 * len(embedding)),
    )
    embedding_slope, (nats, slope) = jax.lax.platform_dependent(
      embedding.astype(hidden.dtype),
      scored,
      *flat,
      cpu=visit(_maximum_on_cpu, _num_positions_on_cpu(*embedding.shape)),
      tpu=functools.partial(vocabulary_tiles.visit, block_bytes),
      default=visit(_maximum, _BLOCK_BYTES // (4 * len(embedding))),
    )
    total = weighted_sum(weights, nats.reshape(shape))
    results = nats.reshape(shape), slope.reshape(hidden.shape)
    return results, (total, embedding_slope)

  (nats, slope), (total, embedding_slope) = per_shard.call(
    visit_all,
    partition,
    labels.ndim,
    (hidden, labels, weights),
    (embedding, scored),
  )
  return (total, nats), (slope, embedding_slope.astype(embedding.dtype))


def _cross_entropy_sum_backward(partition, block_bytes, slopes, cotangents):
  del partition, block_bytes
  hidden_slope, embedding_slope = (
    (cotangents[0] * slope.astype(jnp.float32)).astype(slope.dtype)
    for slope in slopes
  )
  return hidden_slope, embedding_slope, None, None, None


_cross_entropy_sum.defvjp(
  _cross_entropy_sum_forward, _cross_entropy_sum_backward
)


def _num_positions_on_cpu(num_words, size):
  """Of a block: as many as a word has numbers, or as have few logits.

  With more, the sum [V, E] costs little less where words are few; where they
  are many, logits take memory.
  """
  fewest, most = (it // (4 * num_words) for it in _BLOCK_BYTES_CPU)
  return min(max(size, fewest), most)


def _maximum(logits, scored, known):
  """Largest logit of the scored words, [P, V] → [P]."""
  del known
  return jnp.max(jnp.where(scored[None], logits, -jnp.inf), axis=-1)


def _maximum_on_cpu(logits, scored, known):
  """The same, or a little more, without a second array of the logits' size.

  For exponentials that do not overflow, the largest logit of all words serves
  as well, unless it is far above a `known` one, [P], of the scored words.
  """
  num_positions, num_words = logits.shape
  of_all = jnp.max(logits, axis=-1)

  def of_scored():
    def visit(top, words):
      start, size, _ = words
      part = jax.lax.dynamic_slice_in_dim(logits, start, size, axis=1)
      is_scored = jax.lax.dynamic_slice_in_dim(scored, start, size)
      return jnp.maximum(top, _maximum(part, is_scored, known))

    lowest = jnp.full([num_positions], -jnp.inf)
    return scan_blocks(visit, lowest, num_words, _PART)

  is_far = jnp.any(known < of_all - FAR)
  return jax.lax.cond(is_far, of_scored, lambda: of_all)


def _visit(maximum_fn, max_positions, table, scored, *arrays):
  """Slope of the table, and value and slope of each position."""

  def visit_all(shape, add):
    visit = functools.partial(_visit_positions, maximum_fn, table, scored, add)
    zeros = jnp.zeros(shape, jnp.float32)
    return scan_positions(visit, zeros, arrays, max_positions)

  if 4 * table.size > _TURNED_BYTES:
    return visit_all(table.shape, _add_product)
  # The slopes of logits are then multiplied as they lie. But the sum takes its
  # memory twice when it is turned.
  table_slope, found = visit_all(table.shape[::-1], _add_turned)
  return table_slope.T, found


def _visit_positions(maximum_fn, table, scored, add, table_slope, block):
  """Value and slopes of a block of positions over the whole vocabulary."""
  hidden, labels, weights = block
  logits = product("pe,ve->pv", hidden, table)
  # Not taken from the logits, which are then free for their exponentials.
  found = label_logits(hidden, table, labels)
  # A vector of weight 0 is 0, and so are all its logits.
  is_known = scored[labels] | (weights == 0)
  known = jnp.where(is_known, found, -jnp.inf)
  top = maximum_fn(logits, scored, known)[:, None]
  exponentials = jnp.exp(jnp.where(scored[None], logits, -jnp.inf) - top)
  total = jnp.sum(exponentials, axis=-1, keepdims=True)
  ids = jnp.arange(table.shape[0], dtype=jnp.int32)
  is_label = labels[:, None] == ids[None]
  # Divided once a position: it takes a CPU as long as all else at a word.
  shares = (weights[:, None] / total) * exponentials
  slope = weighted_slope(shares, is_label, weights).astype(hidden.dtype)
  hidden_slope = product("pv,ve->pe", slope, table).astype(hidden.dtype)
  nats = (top + jnp.log(total))[:, 0] - found
  return add(table_slope, slope, hidden), (nats, hidden_slope)


def _add_turned(total, slope, hidden):
  """total + hiddenᵀ · slope, [E, V]."""
  return total + product("pv,pe->ev", slope, hidden)


def _add_product(total, slope, hidden):
  """total + slopeᵀ · hidden, [V, E], a block of words at a time."""
  num_words, size = total.shape

  def visit(total, words):
    start, size, is_new = words
    part = jax.lax.dynamic_slice_in_dim(slope, start, size, axis=1)
    part = jnp.where(is_new[None], part, jnp.zeros_like(part))
    return add_rows(total, start, product("pv,pe->ve", part, hidden))

  return scan_blocks(visit, total, num_words, _PRODUCT_BYTES // (4 * size))
