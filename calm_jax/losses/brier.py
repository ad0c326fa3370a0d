"""The Brier score of latents, read through the decoder: a loss beside a head's.

The score that a model is judged by (paper §4) counts equal tokens, which has no
gradient. Here a latent stands for all tokens that the decoder may give it, each
with its probability, instead of for the most likely ones.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from calm_jax.kernels import per_shard
from calm_jax.kernels.blocks import scan_positions

LogitsFn = Callable[[Any, jax.Array], jax.Array]

_BLOCK_BYTES = 2**27  # of the float32 logits of a block of positions


def brier_scores(
  logits_fn: LogitsFn,
  params: Any,
  samples: jax.Array,
  labels: jax.Array,
  *,
  vocabulary_size: int,
  implementation: str = "auto",
  partition: jax.sharding.PartitionSpec | None = None,
) -> jax.Array:
  """Brier-1 … K of what samples decode to (paper §4.2), differentiable.

    Brier-n = 2/N Σ_i Π_{k≤n} p_i,k(y_k)
              − 1/(N(N−1)) Σ_{i≠j} Π_{k≤n} Σ_v p_i,k(v) · p_j,k(v)

  with p_i,k = softmax of the decoder's logits of sample i at token k. This is a
  kernel score (Gneiting and Raftery, 2007, §5) whose kernel is the probability
  that two latents decode to the same n tokens, so its expectation is largest
  where the samples decode as the text is distributed. As the decoder becomes
  certain it becomes `evaluation.brier`'s unbiased estimate. Token models have
  been trained by the Brier score of each token (arXiv:2405.18906).

  It has no say in where a latent lies among those that decode alike, nor any
  gradient where all probabilities involved are 0: it stands beside the energy
  score, not in its place.

  Args:
    logits_fn: params, [..., Z] → [..., K, V] float32, −inf where never chosen.
    params: of the decoder; no gradient.
    samples: [..., N, Z] float32, x; N ≥ 2, independent of each other.
    labels: [..., K] int32, y.
    vocabulary_size: V, which the size of a block of positions follows from.
    implementation: reference: all positions at once. Anything else: a block at
      a time, computed again in the backward pass if there are several.
    partition: as `losses.energy.energy_loss`.

  Returns:
    [..., K] float32, at most 1.
  """
  *shape, num_samples, _ = samples.shape
  chex.assert_axis_dimension_gteq(samples, -2, 2)
  chex.assert_shape(labels, (*shape, None))
  params = jax.lax.stop_gradient(params)
  if implementation == "reference":
    return _scores(logits_fn(params, samples), labels)

  def visit(params, block):
    return params, _scores(logits_fn(params, block[0]), block[1])

  def visit_all(samples, labels, params):
    arrays = [samples.reshape(-1, *samples.shape[-2:])]
    arrays += [labels.reshape(-1, labels.shape[-1])]
    logits_bytes = 4 * num_samples * labels.shape[-1] * vocabulary_size
    size = _BLOCK_BYTES // logits_bytes
    # A single block is kept for the backward pass, as all of them could not be.
    is_kept = len(arrays[0]) <= size
    one = visit if is_kept else jax.checkpoint(visit)
    _, scores = scan_positions(one, params, arrays, size)
    return (scores.reshape(labels.shape),), ()

  (scores,), _ = per_shard.call(
    visit_all, partition, len(shape), (samples, labels), (params,)
  )
  return scores


def _scores(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Logits, [..., N, K, V], and labels, [..., K] → [..., K]."""
  num_samples = logits.shape[-3]
  odds = jax.nn.softmax(logits, axis=-1)
  places = labels[..., None, :, None]
  right = jnp.take_along_axis(odds, places, axis=-1)[..., 0]  # [..., N, K]
  accuracy = jnp.cumprod(right, axis=-1).mean(axis=-2)
  equal = jnp.einsum("...ikv,...jkv->...ijk", odds, odds, precision="highest")
  is_pair = ~jnp.eye(num_samples, dtype=bool)[..., None]
  agreement = jnp.where(is_pair, jnp.cumprod(equal, axis=-1), 0.0)
  collision = agreement.sum(axis=(-3, -2)) / (num_samples * (num_samples - 1))
  return 2 * accuracy - collision
