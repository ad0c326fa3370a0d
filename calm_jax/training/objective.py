"""What each stage minimises, as sums over the chunks that count.

A chunk counts only if all its K target tokens are real text.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from calm_jax.autoencoder import Autoencoder, Posterior
from calm_jax.config import (
  AutoencoderConfig,
  ExperimentConfig,
  NextVectorConfig,
)
from calm_jax.data.batch import Batch
from calm_jax.losses.reconstruction import clipped_kl, kl_divergence
from calm_jax.model import NextVectorModel, TokenModel
from calm_jax.randomness import position_keys, sample_keys
from calm_jax.training.metrics import Sum, Sums, masked_sum
from calm_jax.training.state import build_model

# (params, frozen, batch, key) → (sum of the loss, sums by name). `frozen` holds
# the parameters that are not trained: those of the autoencoder, or None. The
# sum named "loss" counts what the loss is the mean over.
Objective = Callable[[Any, Any, Batch, jax.Array], tuple[jax.Array, Sums]]

# Training accuracy costs an encoding and an argmax over the vocabulary, so it
# is measured on every eighth chunk only.
_ACCURACY_STRIDE = 8

# A dimension whose posterior mean varies less than this over the data says
# nothing of the chunk (Burda et al., "Importance weighted autoencoders", §5.2).
_DEAD_VARIANCE = 0.01


def make_objective(config: ExperimentConfig) -> Objective:
  """The objective of the stage that `config.model` belongs to."""
  model = build_model(config.model)
  if isinstance(config.model, AutoencoderConfig):
    return functools.partial(autoencoder_objective, model)
  if isinstance(config.model, NextVectorConfig):
    autoencoder = Autoencoder(config.autoencoder)
    return functools.partial(next_vector_objective, model, autoencoder)
  return functools.partial(token_objective, model)


def autoencoder_objective(
  model: Autoencoder, params: Any, frozen: None, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Sums]:
  """K · CE + β_KL · Σ_z max(λ_KL, KL_z), with two noises (paper §2).

  Each input token is replaced by the mask id with probability
  `token_mask_rate`, and each dimension of the latent is dropped with
  probability `latent_dropout_rate`, the others being scaled up. The labels are
  the clean tokens.

  Deviation: the authors overwrite input tokens with id 0, a real token.

  Args:
    model: the module.
    params: its parameters.
    frozen: None.
    batch: rows of chunks.
    key: of the step, [].

  Returns:
    The loss summed over chunks, and sums of what is logged.
  """
  del frozen
  config = model.config
  apply = functools.partial(model.apply, {"params": params})
  is_counted = jnp.all(batch.token_mask, axis=-1)  # [B, L]
  keys = sample_keys(_keys(key, batch), jnp.arange(3, dtype=jnp.uint32))
  size, dropped = config.latent_size, config.latent_dropout_rate

  is_masked = _draw(
    lambda k: jax.random.bernoulli(
      k, config.token_mask_rate, (config.chunk_size,)
    ),
    keys[..., 0],
  )
  noise = _draw(lambda k: jax.random.normal(k, (size,)), keys[..., 1])
  is_kept = _draw(
    lambda k: jax.random.bernoulli(k, 1 - dropped, (size,)), keys[..., 2]
  )

  posterior = apply(batch.tokens, is_masked, method="encode")
  latents = posterior.sample(noise) * is_kept / (1 - dropped)
  # Ids that are never scored stand only in chunks that do not count.
  labels = jnp.where(
    is_counted[..., None], batch.tokens, config.vocabulary.end_id
  )
  weights = jnp.broadcast_to(is_counted[..., None], labels.shape)
  total_nats, nats = apply(
    latents,
    labels,
    weights.astype(jnp.float32),
    method="cross_entropy_sum",
  )  # nats: [B, L, K]
  penalty = masked_sum(clipped_kl(*posterior, config.kl_floor), is_counted)
  total = penalty._replace(total=total_nats + config.kl_weight * penalty.total)
  sums = {
    "loss": total,
    "cross_entropy": masked_sum(nats.mean(axis=-1), is_counted),
    "kl": masked_sum(kl_divergence(*posterior).sum(axis=-1), is_counted),
    "latent_std": masked_sum(
      jnp.exp(posterior.log_std).mean(axis=-1), is_counted
    ),
    "dead_dimensions": _dead_dimensions(posterior, is_counted),
    "token_accuracy": _accuracy(apply, batch, noise, is_counted),
  }
  return total.total, sums


def next_vector_objective(
  model: NextVectorModel,
  autoencoder: Autoencoder,
  params: Any,
  frozen: Any,
  batch: Batch,
  key: jax.Array,
) -> tuple[jax.Array, Sums]:
  """The head's loss against the posterior of the next chunk (paper §3).

  The hidden state of chunk i predicts chunk i + 1, so the first chunk is never
  predicted. Targets come from the frozen encoder without noise.

  Args:
    model: the module.
    autoencoder: the frozen module.
    params: the model's parameters.
    frozen: the autoencoder's parameters.
    batch: rows of chunks.
    key: of the step, [].

  Returns:
    The loss summed over predicted chunks, and sums of what is logged.
  """
  apply = functools.partial(model.apply, {"params": params})
  posterior = autoencoder.apply(
    {"params": frozen}, batch.tokens, method="encode"
  )
  hidden = apply(
    batch.tokens, posterior.mean, batch.segment_ids, method="hidden"
  )
  # All L positions go through the head, the last without a target: a length
  # of L − 1 would divide by nothing.
  mean, log_std = jax.tree.map(_next, posterior)
  is_counted = _next_is_real(batch)
  head = apply(hidden, mean, log_std, _keys(key, batch), method="loss")
  total = masked_sum(head.loss, is_counted)
  sums = {name: masked_sum(it, is_counted) for name, it in head.metrics.items()}
  sums["loss"] = total
  sums["latent_std"] = masked_sum(jnp.exp(log_std).mean(axis=-1), is_counted)
  sums["dead_dimensions"] = _dead_dimensions(
    Posterior(mean, log_std), is_counted
  )
  return total.total, sums


def token_objective(
  model: TokenModel, params: Any, frozen: None, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Sums]:
  """Cross-entropy of the next token in nats, the baseline (paper §7.1).

  Args:
    model: the module.
    params: its parameters.
    frozen: None.
    batch: rows of chunks of one token.
    key: not used.

  Returns:
    The loss summed over predicted tokens, and the sums that are logged.
  """
  del frozen, key
  apply = functools.partial(model.apply, {"params": params})
  hidden = apply(batch.tokens, batch.segment_ids, method="hidden")
  is_counted = _next_is_real(batch)
  labels = jnp.where(
    is_counted, _next(batch.tokens[..., 0]), model.config.vocabulary.end_id
  )
  weights = is_counted.astype(jnp.float32)
  total_nats, _ = apply(hidden, labels, weights, method="cross_entropy_sum")
  return total_nats, {"loss": Sum(total_nats, weights.sum())}


def _keys(key: jax.Array, batch: Batch) -> jax.Array:
  """One key for every chunk, [B, L]."""
  chunk_ids = jnp.arange(batch.tokens.shape[1], dtype=jnp.uint32)
  return position_keys(key, batch.row_ids, chunk_ids)


def _draw(
  draw_fn: Callable[[jax.Array], jax.Array], keys: jax.Array
) -> jax.Array:
  """Draws [n] at each of the [B, L] keys: [B, L, n]."""
  return jax.vmap(jax.vmap(draw_fn))(keys)


def _next(values: jax.Array) -> jax.Array:
  """What stands at i + 1, along L; the last has no meaning."""
  return jnp.roll(values, -1, axis=1)


def _next_is_real(batch: Batch) -> jax.Array:
  """[B, L] bool: there is a next chunk, and all its tokens are real text."""
  is_real = _next(jnp.all(batch.token_mask, axis=-1))
  is_last = jnp.arange(is_real.shape[1]) == is_real.shape[1] - 1
  return is_real & ~is_last[None]


def _dead_dimensions(posterior: Posterior, is_counted: jax.Array) -> Sum:
  """How many of the Z dimensions do not depend on the chunk."""
  weights = is_counted.astype(jnp.float32)[..., None]  # [B, L, 1]
  count = jnp.maximum(weights.sum(), 1)
  mean = (posterior.mean * weights).sum(axis=(0, 1), keepdims=True) / count
  variance = (jnp.square(posterior.mean - mean) * weights).sum((0, 1)) / count
  num_dead = jnp.sum(variance < _DEAD_VARIANCE, dtype=jnp.float32)
  return Sum(num_dead, jnp.ones((), jnp.float32))


def _accuracy(
  apply: Callable[..., Any],
  batch: Batch,
  noise: jax.Array,
  is_counted: jax.Array,
) -> Sum:
  """Tokens that a sampled latent of the clean chunk gives back."""
  tokens, noise, is_counted = (
    jax.lax.stop_gradient(it[:, ::_ACCURACY_STRIDE])
    for it in (batch.tokens, noise, is_counted)
  )
  latents = apply(tokens, method="encode").sample(noise)
  is_right = apply(latents, method="decode_tokens") == tokens
  return masked_sum(is_right.mean(axis=-1, dtype=jnp.float32), is_counted)
