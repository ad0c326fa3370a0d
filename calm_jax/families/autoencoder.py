"""Autoencoders: K tokens to a latent and back (paper §2)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from calm_jax.autoencoder import Autoencoder, Posterior
from calm_jax.autoencoder.posteriors import posterior_kind
from calm_jax.config import AutoencoderConfig, ExperimentConfig
from calm_jax.data.batch import Batch, chunk_targets
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.evaluation.reconstruction import reconstruction_columns
from calm_jax.evaluation.windows import summarise
from calm_jax.families.autoencoder_published import PublishedAutoencoder
from calm_jax.families.family import (
  Family,
  LoggedMeansFn,
  Objective,
  ScoresFn,
  Work,
)
from calm_jax.losses.mean import Mean, Means, masked_mean
from calm_jax.losses.reconstruction import kl_divergence
from calm_jax.randomness import chunk_keys, draw, sample_keys
from calm_jax.sampling.sampler import SamplerFn

# Training accuracy costs an encoding and an argmax over the vocabulary, so it
# is measured in steps that are logged, on every eighth chunk only.
_ACCURACY_STRIDE = 8

# A dimension whose posterior mean varies less than this over the data says
# nothing of the chunk (Burda et al., "Importance weighted autoencoders", §5.2).
_DEAD_VARIANCE = 0.01


class AutoencoderFamily(Family):
  """See `Autoencoder`."""

  published = PublishedAutoencoder()

  def build(self, config: AutoencoderConfig) -> Autoencoder:
    return Autoencoder(config)

  def example_inputs(self, config: AutoencoderConfig) -> tuple[Any, ...]:
    return (jnp.zeros((1, 1, config.chunk_size), jnp.int32),)

  def objective(self, config: ExperimentConfig) -> Objective:
    return functools.partial(
      autoencoder_objective,
      self.build(config.model),
      closing_id=config.closing_id,
    )

  def logged_means(self, config: ExperimentConfig) -> LoggedMeansFn:
    return functools.partial(
      rebuilt_tokens, self.build(config.model), closing_id=config.closing_id
    )

  def make_scores_fn(
    self,
    config: ExperimentConfig,
    settings: PredictionSettings,
    mesh: Mesh | None = None,
  ) -> ScoresFn:
    """Shares of tokens and chunks that come back; the seed alone is read.

    Beside the scores, `std_per_dimension`: Z numbers.
    """
    model = config.model

    def scores_fn(params, autoencoder, batches):
      del autoencoder
      columns, stds = reconstruction_columns(
        model, params, batches, settings.seed, config.closing_id, mesh
      )
      scores, warnings = summarise(columns)
      scores["std_per_dimension"] = stds.tolist()
      return scores | {"warnings": warnings}

    return scores_fn

  def sampler_fn(
    self, config: ExperimentConfig, *, top_k: int = 0
  ) -> SamplerFn:
    raise ValueError(
      "the run holds an autoencoder, which rebuilds text but predicts none;"
      " give the run directory of a next-vector or token model."
    )

  def training_work(
    self, model: AutoencoderConfig, autoencoder: None, num_positions: int
  ) -> dict[str, Work]:
    return {
      "encoder": encoder_work(model, num_positions),
      "decoder": decoder_work(model, num_positions),
    }


def encoder_work(
  model: AutoencoderConfig, num_positions: int, *, num_passes: int = 3
) -> Work:
  """Encoding a row."""
  tokens = jax.ShapeDtypeStruct((num_positions, model.chunk_size), jnp.int32)
  return Work(model, "encode", (tokens,), num_passes)


def decoder_work(
  model: AutoencoderConfig, num_positions: int, num_draws: int = 1
) -> Work:
  """Decoding n latents for each chunk of a row."""
  shape = (num_positions, num_draws, model.latent_size)
  latents = jax.ShapeDtypeStruct(shape, jnp.float32)
  return Work(model, "logits", (latents,))


def autoencoder_objective(
  model: Autoencoder,
  params: Any,
  frozen: None,
  batch: Batch,
  key: jax.Array,
  *,
  closing_id: int | None = None,
) -> tuple[jax.Array, Means]:
  """K · CE + β_KL · penalty of the posterior, with two noises (paper §2).

  The paper's penalty is Σ_z max(λ_KL, KL_z). Each input token is replaced by
  the mask id with probability `token_mask_rate`, and each dimension of the
  latent is dropped with probability `latent_dropout_rate`, the others being
  scaled up. The labels are the clean tokens. A chunk counts only if all its K
  tokens are real text, or closed behind an end id.

  Deviation: the authors overwrite input tokens with id 0, a real token.

  Args:
    model: the module.
    params: its parameters.
    frozen: None.
    batch: rows of chunks.
    key: of the step, [].
    closing_id: see `chunk_targets`; closed chunks are read and rebuilt.

  Returns:
    The loss summed over chunks, and means of what is logged.
  """
  del frozen
  targets = chunk_targets(batch, closing_id)
  batch = batch._replace(tokens=targets.tokens, token_mask=targets.mask)
  config = model.config
  kind = posterior_kind(config)
  apply = functools.partial(model.apply, {"params": params})
  is_counted = jnp.all(batch.token_mask, axis=-1)  # [B, L]
  keys = sample_keys(
    chunk_keys(key, batch.row_ids, batch.tokens.shape[1]),
    jnp.arange(4, dtype=jnp.uint32),
  )
  size, dropped = config.latent_size, config.latent_dropout_rate

  is_masked = draw(
    lambda k: jax.random.bernoulli(
      k, config.token_mask_rate, (config.chunk_size,)
    ),
    keys[..., 0],
  )
  noise = draw(lambda k: jax.random.normal(k, (size,)), keys[..., 1])
  is_kept = draw(
    lambda k: jax.random.bernoulli(k, 1 - dropped, (size,)), keys[..., 2]
  )

  posterior = apply(batch.tokens, is_masked, method="encode")
  latents = kind.draw(posterior, noise, keys[..., 3])
  latents = latents * is_kept / (1 - dropped)
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
  penalty = masked_mean(kind.penalty(posterior), is_counted)
  loss = penalty._replace(total=total_nats + config.kl_weight * penalty.total)
  means = {
    "loss": loss,
    "cross_entropy": masked_mean(nats.mean(axis=-1), is_counted),
    "kl": masked_mean(kl_divergence(*posterior).sum(axis=-1), is_counted),
    "latent_std": masked_mean(
      jnp.exp(posterior.log_std).mean(axis=-1), is_counted
    ),
    "dead_dimensions": dead_dimensions(posterior, is_counted),
  }
  return loss.total, means


def dead_dimensions(posterior: Posterior, is_counted: jax.Array) -> Mean:
  """How many of the Z dimensions do not depend on the chunk; NaN if one is."""
  count = jnp.maximum(jnp.sum(is_counted, dtype=jnp.float32), 1)

  def over_chunks(values):  # [B, L, Z] → [1, 1, Z]
    values = jnp.where(is_counted[..., None], values, 0.0)
    return values.sum(axis=(0, 1), keepdims=True) / count

  mean = over_chunks(posterior.mean)
  variance = over_chunks(jnp.square(posterior.mean - mean))
  is_dead = variance < _DEAD_VARIANCE  # false of NaN
  num_dead = jnp.where(jnp.isnan(variance), jnp.nan, is_dead).sum()
  return Mean(num_dead, jnp.ones((), jnp.float32))


def rebuilt_tokens(
  model: Autoencoder,
  params: Any,
  batch: Batch,
  key: jax.Array,
  *,
  closing_id: int | None = None,
) -> Means:
  """Tokens that a sampled latent of the clean chunk gives back.

  Args:
    model: the module.
    params: its parameters.
    batch: rows of chunks.
    key: of the step, [].
    closing_id: see `chunk_targets`.

  Returns:
    `token_accuracy`.
  """
  targets = chunk_targets(batch, closing_id)
  keys = chunk_keys(key, batch.row_ids, batch.tokens.shape[1])
  tokens, mask, keys = (it[:, ::_ACCURACY_STRIDE] for it in (*targets, keys))
  size = (model.config.latent_size,)
  noise = draw(lambda k: jax.random.normal(k, size), keys)
  apply = functools.partial(model.apply, {"params": params})
  latents = apply(tokens, method="encode").sample(noise)
  is_right = apply(latents, method="decode_tokens") == tokens
  share = is_right.mean(axis=-1, dtype=jnp.float32)
  return {"token_accuracy": masked_mean(share, jnp.all(mask, axis=-1))}
