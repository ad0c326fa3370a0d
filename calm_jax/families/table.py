"""The families there are, and what everybody asks of them."""

import functools
from typing import Any

import jax

from calm_jax.config import (
  AutoencoderConfig,
  ModelConfig,
  NextVectorConfig,
  TokenModelConfig,
)
from calm_jax.families.autoencoder import AutoencoderFamily
from calm_jax.families.family import Family, Model
from calm_jax.families.next_vector import NextVectorFamily
from calm_jax.families.token import TokenFamily
from calm_jax.layers import parameters
from calm_jax.randomness import root_key

FAMILIES: dict[type[ModelConfig], Family] = {
  AutoencoderConfig: AutoencoderFamily(),
  NextVectorConfig: NextVectorFamily(),
  TokenModelConfig: TokenFamily(),
}


def family_of(config: ModelConfig) -> Family:
  """The family of the model that a config describes.

  Raises:
    ValueError: if there is none.
  """
  if type(config) not in FAMILIES:
    raise ValueError(
      f"a model of kind {config.kind!r} has no family; give it a line in"
      " FAMILIES."
    )
  return FAMILIES[type(config)]


def build_model(config: ModelConfig) -> Model:
  """The module that a resolved config describes."""
  return family_of(config).build(config)


def init_params(model: Model, key: jax.Array) -> Any:
  """New parameters: nested dict of float32 arrays."""
  return parameters.init_params(model, key, *_example_inputs(model))


def param_shapes(model: Model) -> Any:
  """Shape and dtype of every parameter, without making any."""
  init = functools.partial(init_params, model)
  return jax.eval_shape(init, root_key(0))


def param_axes(model: Model) -> Any:
  """The logical axis names of every parameter, a tree of PartitionSpec."""
  return parameters.logical_axes(model, *_example_inputs(model))


def _example_inputs(model: Model) -> tuple[Any, ...]:
  return family_of(model.config).example_inputs(model.config)
