"""What changes from step to step, and how it starts."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from calm_jax.autoencoder import Autoencoder
from calm_jax.config import (
  AutoencoderConfig,
  ModelConfig,
  NextVectorConfig,
  TokenModelConfig,
)
from calm_jax.layers.parameters import init_params, logical_axes
from calm_jax.model import NextVectorModel, TokenModel
from calm_jax.randomness import stream_key

Model = Autoencoder | NextVectorModel | TokenModel


class TrainState(NamedTuple):
  """All that a step changes. The data position is the step itself."""

  step: jax.Array  # [] int32, steps done
  params: Any  # nested dict, float32
  optimizer_state: Any


def build_model(config: ModelConfig) -> Model:
  """The module that a resolved config describes."""
  kinds = {
    AutoencoderConfig: Autoencoder,
    NextVectorConfig: NextVectorModel,
    TokenModelConfig: TokenModel,
  }
  return kinds[type(config)](config)


def param_shapes(model: Model) -> Any:
  """Shape and dtype of every parameter, without making any."""
  inputs = _example_inputs(model.config)
  init = functools.partial(init_params, model)
  return jax.eval_shape(init, jax.random.key(0), *inputs)


def param_axes(model: Model) -> Any:
  """The logical axis names of every parameter, a tree of PartitionSpec."""
  return logical_axes(model, *_example_inputs(model.config))


def init_state(
  model: Model, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
  """The state before the first step, a function of the seed alone."""
  key = stream_key(seed, "init")
  params = init_params(model, key, *_example_inputs(model.config))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    optimizer_state=optimizer.init(params),
  )


def _example_inputs(config: ModelConfig) -> tuple[Any, ...]:
  """The smallest arguments a model can be called with."""
  tokens = jnp.zeros((1, 1, config.chunk_size), jnp.int32)
  if isinstance(config, NextVectorConfig):
    keys = jnp.broadcast_to(jax.random.key(0), (1, 1))
    return tokens, keys, jnp.zeros((1, 1, config.latent_size))
  return (tokens,)
