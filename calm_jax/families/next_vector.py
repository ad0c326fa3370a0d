"""Next-vector models, CALM itself: the latent of the next chunk (paper §3)."""

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
from calm_jax.data.batch import Batch, Targets, chunk_targets
from calm_jax.families.autoencoder import (
  dead_dimensions,
  decoder_work,
  encoder_work,
)
from calm_jax.families.family import Objective, Work
from calm_jax.families.next_vector_published import PublishedNextVector
from calm_jax.families.predicting import (
  PredictingFamily,
  next_chunk,
  next_is_real,
)
from calm_jax.layers.activation import position_partition
from calm_jax.losses.brier import brier_scores
from calm_jax.losses.mean import Mean, Means, masked_mean
from calm_jax.model import NextVectorModel
from calm_jax.model.heads import build_head
from calm_jax.randomness import chunk_keys, root_key
from calm_jax.sampling.chunk_sampler import ChunkSampler
from calm_jax.sampling.next_chunk import TemperatureSettings
from calm_jax.sampling.sampler import Binding, SamplerFn
from calm_jax.sampling.settings import SamplingSettings


class NextVectorFamily(PredictingFamily):
  """See `NextVectorModel`."""

  published = PublishedNextVector()

  def build(self, config: NextVectorConfig) -> NextVectorModel:
    return NextVectorModel(config)

  def example_inputs(self, config: NextVectorConfig) -> tuple[Any, ...]:
    tokens = jnp.zeros((1, 1, config.chunk_size), jnp.int32)
    keys = jnp.broadcast_to(root_key(0), (1, 1))
    return tokens, keys, jnp.zeros((1, 1, config.latent_size))

  def objective(self, config: ExperimentConfig) -> Objective:
    return functools.partial(
      next_vector_objective,
      self.build(config.model),
      Autoencoder(config.autoencoder),
      auxiliary_weight=config.model.auxiliary_weight,
      brier_weight=config.model.brier_weight,
      closing_id=config.closing_id,
    )

  def sampler_fn(
    self, config: ExperimentConfig, *, top_k: int = 0
  ) -> SamplerFn:
    del top_k
    settings = (config.model, config.autoencoder, config.closing_id)
    return Binding(_make_sampler, settings)

  def bind_params(
    self,
    params: Any,
    autoencoder: Any,
    *,
    noise_scale: float = 1.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
  ) -> dict[str, Any]:
    del temperature, top_p
    return {
      "model": params,
      "autoencoder": autoencoder,
      "noise_scale": noise_scale,
    }

  def temperature_settings(
    self, settings: SamplingSettings
  ) -> TemperatureSettings:
    if settings.top_k or settings.top_p < 1:
      raise ValueError(
        "top_k and top_p need the probabilities of tokens, which a next-vector"
        " model does not have; use temperature."
      )
    return TemperatureSettings(
      temperature=settings.temperature,
      method=settings.method,
      num_candidates=settings.num_candidates,
      max_draws=settings.max_draws,
      when_spent=settings.when_spent,
    )

  def training_work(
    self,
    model: NextVectorConfig,
    autoencoder: AutoencoderConfig | None,
    num_positions: int,
  ) -> dict[str, Work]:
    hidden, keys, latents = _arrays(model, num_positions)
    loss = (hidden, latents, latents, keys)
    flops = build_head(model).elementwise_flops * num_positions
    work = {
      "backbone": _backbone_work(model, num_positions),
      "head": Work(model, "loss", loss, elementwise_flops=flops),
    }
    if model.auxiliary_weight:
      work |= _auxiliary_work(model, num_positions)
    if autoencoder is not None:
      work["encoder"] = encoder_work(autoencoder, num_positions, num_passes=1)
    if model.brier_weight:
      work["brier"] = _brier_work(model, autoencoder, num_positions)
    return work

  def generation_work(
    self,
    model: NextVectorConfig,
    autoencoder: AutoencoderConfig,
    num_positions: int,
    num_draws: int,
  ) -> dict[str, Work]:
    hidden, keys, _ = _arrays(model, num_positions)
    ids = jax.ShapeDtypeStruct((num_draws,), jnp.uint32)
    return {
      "backbone": _backbone_work(model, num_positions),
      "head": Work(model, "sample", (hidden, keys, ids)),
      "decode": decoder_work(autoencoder, num_positions, num_draws),
    }


def _make_sampler(
  params: Any,
  model: NextVectorConfig,
  autoencoder: AutoencoderConfig,
  closing_id: int | None,
) -> ChunkSampler:
  return ChunkSampler(
    model,
    autoencoder,
    params["model"],
    params["autoencoder"],
    noise_scale=params["noise_scale"],
    closing_id=closing_id,
  )


def _backbone_work(model: NextVectorConfig, num_positions: int) -> Work:
  shape = (1, num_positions, model.chunk_size)
  tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
  latents = _arrays(model, num_positions)[-1]
  return Work(model, "hidden", (tokens, latents))


def _auxiliary_work(
  model: NextVectorConfig, num_positions: int
) -> dict[str, Work]:
  """The trained Linear, and the frozen table that its gradient goes through."""
  hidden = _arrays(model, num_positions)[0]
  shape = (1, num_positions, model.chunk_size, model.auxiliary_size)
  # Counted with or without the autoencoder, of which the table alone is read.
  autoencoder = AutoencoderConfig(
    vocabulary=model.vocabulary,
    chunk_size=model.chunk_size,
    latent_size=model.latent_size,
    hidden_size=model.auxiliary_size,
  )
  tokens = jax.ShapeDtypeStruct(shape, jnp.float32)
  return {
    "auxiliary": Work(model, "token_hidden", (hidden,)),
    "auxiliary_logits": Work(
      autoencoder, "token_logits", (tokens,), num_passes=2
    ),
  }


def _brier_work(
  model: NextVectorConfig,
  autoencoder: AutoencoderConfig | None,
  num_positions: int,
) -> Work:
  """Decoding what the head drew, and comparing all pairs of it."""
  if autoencoder is None:
    raise ValueError(
      "the Brier scores in training are read through the frozen autoencoder;"
      " pass autoencoder=CONFIG to count them."
    )
  num_samples = model.head.num_samples
  num_words = model.chunk_size * model.vocabulary.padded_size
  return decoder_work(autoencoder, num_positions, num_samples)._replace(
    num_passes=2,  # the decoder is frozen
    elementwise_flops=2 * num_samples**2 * num_words * num_positions,
  )


def _arrays(model: NextVectorConfig, num_positions: int) -> tuple[Any, ...]:
  """Hidden states, keys and latents of one row."""
  shape = (1, num_positions)
  keys = jax.eval_shape(lambda: jnp.broadcast_to(root_key(0), shape))
  return (
    jax.ShapeDtypeStruct((*shape, model.hidden_size), model.dtype),
    keys,
    jax.ShapeDtypeStruct((*shape, model.latent_size), jnp.float32),
  )


def next_vector_objective(
  model: NextVectorModel,
  autoencoder: Autoencoder,
  params: Any,
  frozen: Any,
  batch: Batch,
  key: jax.Array,
  *,
  auxiliary_weight: float = 0.0,
  brier_weight: float = 0.0,
  closing_id: int | None = None,
) -> tuple[jax.Array, Means]:
  """The head's loss against the posterior of the next chunk (paper §3).

  The hidden state of chunk i predicts chunk i + 1, so the first chunk is never
  predicted. Targets come from the frozen encoder without noise. A chunk counts
  only if all its K tokens are real text, or closed behind an end id.

  With w > 0 each position adds

    w · Σ_k −log softmax(E · (W_k h_i + b_k))[token k of chunk i + 1],

  where W, b are trained and the embedding E is the frozen autoencoder's. It
  does not depend on the head's parameters: given h_i the head still minimises
  its own proper score, whose optimum stays where it was. But h_i is shaped by
  both terms, so the sum as a score of the whole model is that of two forecasts,
  of which only the head's is ever sampled. The K tokens are scored each alone;
  what they have in common is left to the head.

  With v > 0 each position subtracts v · Σ_{n≤K} Brier-n of what the head's
  samples decode to, see `losses.brier`: a second score of the same forecast, of
  tokens instead of latents. Both are best at the same forecast as far as the
  decoder gives back each chunk from its posterior.

  Args:
    model: the module.
    autoencoder: the frozen module.
    params: the model's parameters.
    frozen: the autoencoder's parameters.
    batch: rows of chunks.
    key: of the step, [].
    auxiliary_weight: w.
    brier_weight: v.
    closing_id: see `chunk_targets`; what the model reads stays as it is.

  Returns:
    The loss summed over predicted chunks, and means of what is logged.
  """
  apply = functools.partial(model.apply, {"params": params})
  posterior = autoencoder.apply(
    {"params": frozen}, batch.tokens, method="encode"
  )
  hidden = apply(
    batch.tokens, posterior.mean, batch.segment_ids, method="hidden"
  )
  targets = chunk_targets(batch, closing_id)
  if targets.tokens is not batch.tokens:
    posterior = autoencoder.apply(
      {"params": frozen}, targets.tokens, method="encode"
    )
  # All L positions go through the head, the last without a target: a length
  # of L − 1 would divide by nothing.
  mean, log_std = jax.tree.map(next_chunk, posterior)
  is_counted = next_is_real(targets.mask)
  keys = chunk_keys(key, batch.row_ids, batch.tokens.shape[1])
  head = apply(hidden, mean, log_std, keys, method="loss")
  loss = masked_mean(head.loss, is_counted)
  means = {
    name: masked_mean(it, is_counted) for name, it in head.metrics.items()
  }
  if auxiliary_weight or brier_weight:
    means["head_loss"] = loss
  if auxiliary_weight:
    nats = _auxiliary_nats(apply, autoencoder, frozen, hidden, targets)
    means["auxiliary_nats"] = nats
    loss = loss._replace(total=loss.total + auxiliary_weight * nats.total)
  if brier_weight:
    scores = _brier_scores(autoencoder, frozen, head.samples, targets)
    for n in range(scores.shape[-1]):
      means[f"soft_brier_{n + 1}"] = masked_mean(scores[..., n], is_counted)
    gain = masked_mean(scores.sum(axis=-1), is_counted)
    loss = loss._replace(total=loss.total - brier_weight * gain.total)
  means["loss"] = loss
  means["latent_std"] = masked_mean(jnp.exp(log_std).mean(axis=-1), is_counted)
  means["dead_dimensions"] = dead_dimensions(
    Posterior(mean, log_std), is_counted
  )
  return loss.total, means


def _auxiliary_nats(
  apply: Callable[..., Any],
  autoencoder: Autoencoder,
  frozen: Any,
  hidden: jax.Array,
  targets: Targets,
) -> Mean:
  """Cross-entropy of the next chunk's tokens, read from hidden states."""
  is_counted = next_is_real(targets.mask)[..., None]  # [B, L, 1]
  end_id = autoencoder.config.vocabulary.end_id
  # Ids that are never scored stand only in chunks that do not count.
  labels = jnp.where(is_counted, next_chunk(targets.tokens), end_id)
  weights = jnp.broadcast_to(is_counted, labels.shape).astype(jnp.float32)
  total, _ = autoencoder.apply(
    {"params": jax.lax.stop_gradient(frozen)},
    apply(hidden, method="token_hidden"),
    labels,
    weights,
    method="token_cross_entropy_sum",
  )
  return Mean(total, weights.sum())


def _brier_scores(
  autoencoder: Autoencoder, frozen: Any, samples: jax.Array, targets: Targets
) -> jax.Array:
  """Brier-1 … K of samples for the next chunk, [B, L, K]."""
  return brier_scores(
    lambda params, latents: autoencoder.apply(
      {"params": params}, latents, method="scored_logits"
    ),
    frozen,
    samples,
    next_chunk(targets.tokens),
    implementation=autoencoder.config.vocabulary_implementation,
    partition=position_partition(),
  )
