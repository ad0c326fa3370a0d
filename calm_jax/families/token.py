"""Token models: the same backbone with likelihoods, the baseline (§7.1)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from calm_jax.config import ExperimentConfig, TokenModelConfig
from calm_jax.data.batch import Batch
from calm_jax.families.family import Objective, Work
from calm_jax.families.predicting import (
  PredictingFamily,
  next_chunk,
  next_is_real,
)
from calm_jax.families.token_published import PublishedTokenModel
from calm_jax.losses.mean import Mean, Means
from calm_jax.model import TokenModel
from calm_jax.sampling.next_chunk import TemperatureSettings
from calm_jax.sampling.sampler import Binding, SamplerFn
from calm_jax.sampling.settings import (
  SamplingSettings,
  check_token_temperature,
)
from calm_jax.sampling.token_sampler import TokenSampler


class TokenFamily(PredictingFamily):
  """See `TokenModel`."""

  published = PublishedTokenModel()

  def build(self, config: TokenModelConfig) -> TokenModel:
    return TokenModel(config)

  def example_inputs(self, config: TokenModelConfig) -> tuple[Any, ...]:
    del config
    return (jnp.zeros((1, 1, 1), jnp.int32),)

  def objective(self, config: ExperimentConfig) -> Objective:
    return functools.partial(token_objective, self.build(config.model))

  def sampler_fn(
    self, config: ExperimentConfig, *, top_k: int = 0
  ) -> SamplerFn:
    return Binding(_make_sampler, (config.model, top_k))

  def bind_params(
    self,
    params: Any,
    autoencoder: None,
    *,
    noise_scale: float = 1.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
  ) -> dict[str, Any]:
    del autoencoder, noise_scale
    return {"model": params, "temperature": temperature, "top_p": top_p}

  def temperature_settings(
    self, settings: SamplingSettings
  ) -> TemperatureSettings:
    """None of its own: the sampler divides its logits."""
    if settings.noise_scale != 1:
      raise ValueError(
        "noise_scale belongs to next-vector models, and this run holds a token"
        " model; use temperature, top_k or top_p."
      )
    check_token_temperature(settings.temperature)
    return TemperatureSettings()

  def training_work(
    self, model: TokenModelConfig, autoencoder: None, num_positions: int
  ) -> dict[str, Work]:
    return _work(model, num_positions, "output")

  def generation_work(
    self,
    model: TokenModelConfig,
    autoencoder: None,
    num_positions: int,
    num_draws: int,
  ) -> dict[str, Work]:
    """The same for any number of draws: they share one distribution."""
    return _work(model, num_positions, "decode")


def _make_sampler(
  params: Any, model: TokenModelConfig, top_k: int
) -> TokenSampler:
  return TokenSampler(
    model,
    params["model"],
    temperature=params["temperature"],
    top_k=top_k,
    top_p=params["top_p"],
  )


def _work(
  model: TokenModelConfig, num_positions: int, output: str
) -> dict[str, Work]:
  tokens = jax.ShapeDtypeStruct((1, num_positions, 1), jnp.int32)
  shape = (1, num_positions, model.hidden_size)
  hidden = jax.ShapeDtypeStruct(shape, model.dtype)
  return {
    "backbone": Work(model, "hidden", (tokens,)),
    output: Work(model, "logits", (hidden,)),
  }


def token_objective(
  model: TokenModel, params: Any, frozen: None, batch: Batch, key: jax.Array
) -> tuple[jax.Array, Means]:
  """Cross-entropy of the next token in nats, the baseline (paper §7.1).

  Args:
    model: the module.
    params: its parameters.
    frozen: None.
    batch: rows of chunks of one token.
    key: not used.

  Returns:
    The loss summed over predicted tokens, and the means that are logged.
  """
  del frozen, key
  apply = functools.partial(model.apply, {"params": params})
  hidden = apply(batch.tokens, batch.segment_ids, method="hidden")
  is_counted = next_is_real(batch.token_mask)
  labels = jnp.where(
    is_counted, next_chunk(batch.tokens[..., 0]), model.config.vocabulary.end_id
  )
  weights = is_counted.astype(jnp.float32)
  total_nats, _ = apply(hidden, labels, weights, method="cross_entropy_sum")
  return total_nats, {"loss": Mean(total_nats, weights.sum())}
