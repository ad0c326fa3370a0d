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
from calm_jax.losses.implementations import is_reference

LogitsFn = Callable[[Any, jax.Array], jax.Array]

_BLOCK_BYTES = 2**27  # of the float32 logits of a block of positions


def brier_scores(
  logits_fn: LogitsFn,
  params: Any,
  samples: jax.Array,
  labels: jax.Array,
  *,
  implementation: str = "auto",
  partition: jax.sharding.PartitionSpec | None = None,
) -> jax.Array:
  """Brier-1 … K of what samples decode to (paper §4.2), differentiable.

    Brier-n = 2/N Σ_i Π_{k≤n} p_i,k(y_k)
              − 1/(N(N−1)) Σ_{i≠j} Π_{k≤n} Σ_v p_i,k(v) · p_j,k(v)

  with p_i,k = softmax of the decoder's logits of sample i at token k. It is an
  unbiased estimate of the Brier score of the mixture over samples of their
  softmaxes, a proper score of tokens *drawn* from them (Gneiting and Raftery,
  2007, §4.1); token models have been trained by it, too (arXiv:2405.18906). As
  the decoder becomes certain it becomes the estimate of `evaluation.brier`.

  What it does not see, the energy score beside it has to: tokens are taken by
  argmax in the end, but here one blurred latent, which may decode to several
  chunks, scores as well as samples that are spread over them. And where the
  decoder is certain of something else there is no gradient to speak of.

  Args:
    logits_fn: params, [..., Z] → [..., K, V] float32, −inf where never chosen.
    params: of the decoder; no gradient.
    samples: [..., N, Z] float32, x; N ≥ 2, independent of each other.
    labels: [..., K] int32, y.
    implementation: reference: all positions at once. xla, pallas or auto: a
      block at a time, computed again in the backward pass if there are several.
    partition: as `losses.energy.energy_loss`.

  Returns:
    [..., K] float32, at most 1.
  """
  *shape, _, _ = samples.shape
  chex.assert_axis_dimension_gteq(samples, -2, 2)
  chex.assert_shape(labels, (*shape, None))
  params = jax.lax.stop_gradient(params)
  if is_reference(implementation):
    return _scores(logits_fn(params, samples), labels)

  def visit_all(samples, labels, params):
    # The params are no carry: of that, the backward pass keeps a copy a block.
    visit = lambda carry, block: (
      carry,
      _scores(logits_fn(params, block[0]), block[1]),
    )
    arrays = [samples.reshape(-1, *samples.shape[-2:])]
    arrays += [labels.reshape(-1, labels.shape[-1])]
    one = jax.eval_shape(logits_fn, params, arrays[0][:1])
    size = max(1, _BLOCK_BYTES // (one.size * one.dtype.itemsize))
    # A single block is kept for the backward pass, as all of them could not be.
    is_kept = len(arrays[0]) <= size
    _, scores = scan_positions(
      visit if is_kept else jax.checkpoint(visit), None, arrays, size
    )
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
