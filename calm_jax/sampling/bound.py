"""A loaded run as a sampler, for whichever kind of model it holds."""

from collections.abc import Callable
from typing import Any

from calm_jax.config import (
  AutoencoderConfig,
  ExperimentConfig,
  NextVectorConfig,
  TokenModelConfig,
)
from calm_jax.sampling.chunk_sampler import ChunkSampler
from calm_jax.sampling.token_sampler import TokenSampler

Sampler = ChunkSampler | TokenSampler


def make_sampler_fn(
  config: ExperimentConfig, *, top_k: int = 0
) -> Callable[[dict[str, Any]], Sampler]:
  """A function that binds parameters, for use inside compiled ones.

  Args:
    config: of a run, resolved.
    top_k: token models: only the k most likely tokens; 0: all.

  Returns:
    `bind_params` → sampler.

  Raises:
    ValueError: if the run holds an autoencoder, which predicts nothing.
  """
  model = config.model
  if isinstance(model, NextVectorConfig):
    return lambda params: ChunkSampler(
      model,
      config.autoencoder,
      params["model"],
      params["autoencoder"],
      noise_scale=params["noise_scale"],
    )
  if isinstance(model, TokenModelConfig):
    return lambda params: TokenSampler(
      model,
      params["model"],
      temperature=params["temperature"],
      top_k=top_k,
      top_p=params["top_p"],
    )
  assert isinstance(model, AutoencoderConfig)
  raise ValueError(
    "the run holds an autoencoder, which rebuilds text but predicts none; give"
    " the run directory of a next-vector or token model."
  )


def bind_params(
  config: ExperimentConfig,
  params: Any,
  autoencoder: Any,
  *,
  noise_scale: float = 1.0,
  temperature: float = 1.0,
  top_p: float = 1.0,
) -> dict[str, Any]:
  """What `make_sampler_fn`'s function takes.

  Args:
    config: of the run.
    params: of the model.
    autoencoder: frozen parameters of a next-vector run, else None.
    noise_scale: next-vector models: factor on the head's noise.
    temperature: token models: divides the logits.
    top_p: token models: only the most likely tokens of that probability.

  Returns:
    A tree of arrays and numbers, none of which is compiled in.
  """
  if isinstance(config.model, NextVectorConfig):
    return {
      "model": params,
      "autoencoder": autoencoder,
      "noise_scale": noise_scale,
    }
  return {"model": params, "temperature": temperature, "top_p": top_p}
