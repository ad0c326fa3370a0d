"""What changes from step to step, and how it starts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from calm_jax.families import Model, init_params
from calm_jax.randomness import stream_key


class TrainState(NamedTuple):
  """All that a step changes. The data position is the step itself."""

  step: jax.Array  # [] int32, steps done
  params: Any  # nested dict, float32
  optimizer_state: Any


def init_state(
  model: Model, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
  """The state before the first step, a function of the seed alone."""
  params = init_params(model, stream_key(seed, "init"))
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    optimizer_state=optimizer.init(params),
  )
