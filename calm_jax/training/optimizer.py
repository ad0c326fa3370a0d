"""AdamW or Muon, with clipping, and the learning rate at every step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from calm_jax.config import ExperimentConfig, OptimizerConfig
from calm_jax.training.muon import is_matrix, scale_by_muon

Schedule = Callable[[jax.Array], jax.Array]

# What the layers call the parameters that only shift or scale.
_NOT_DECAYED = ("bias", "scale")


def make_optimizer(
  config: ExperimentConfig, axes: Any
) -> optax.GradientTransformation:
  """What follows the gradient after clipping it by the global norm.

  Args:
    config: of the run, resolved.
    axes: the logical axes of every parameter, a tree of PartitionSpec.

  Returns:
    The transformation; its state is float32.
  """
  schedule = make_schedule(config.optimizer, config.num_steps)
  return optax.chain(
    optax.clip_by_global_norm(config.optimizer.clip_norm),
    *OPTIMIZERS[config.optimizer.name](config, schedule, axes),
  )


def adamw(
  config: ExperimentConfig, schedule: Schedule, axes: Any
) -> list[optax.GradientTransformation]:
  """AdamW (Loshchilov and Hutter, 2019); its state has the shape of p twice.

    g ← g · min(1, clip_norm / ‖g‖)
    m ← b1·m + (1 − b1)·g,  v ← b2·v + (1 − b2)·g²
    p ← p − rate · ( m̂ / (√v̂ + ε) + weight_decay · p )

  m̂ and v̂ are without bias towards 0; p decays only where `decay_mask` says.
  """
  del axes
  settings = config.optimizer
  return [
    optax.adamw(
      schedule,
      b1=settings.b1,
      b2=settings.b2,
      eps=settings.epsilon,
      weight_decay=settings.weight_decay,
      mask=decay_mask,
    )
  ]


def muon(
  config: ExperimentConfig, schedule: Schedule, axes: Any
) -> list[optax.GradientTransformation]:
  """Muon for matrices, `is_matrix`, and AdamW for all other parameters.

  Both have the same rate and the same decay.

  Deviation: `optax.contrib.muon` gives its AdamW Nesterov's momentum and
  no mask for its decay; here it is the AdamW of `adamw`.
  """
  settings = config.optimizer
  is_axes = lambda leaf: isinstance(leaf, PartitionSpec)
  leaves = jax.tree.leaves(axes, is_leaf=is_axes)
  label = lambda names: "muon" if is_matrix(names) else "adamw"
  return [
    optax.partition(
      {
        "muon": scale_by_muon(
          [names for names in leaves if is_matrix(names)],
          settings.muon_beta,
          chunk_size=config.model.chunk_size,
          dtype=config.model.dtype,
        ),
        "adamw": optax.scale_by_adam(
          b1=settings.b1, b2=settings.b2, eps=settings.epsilon
        ),
      },
      jax.tree.map(label, axes, is_leaf=is_axes),
    ),
    optax.add_decayed_weights(settings.weight_decay, decay_mask),
    optax.scale_by_learning_rate(schedule),
  ]


# By their names in configs.
OPTIMIZERS = {"adamw": adamw, "muon": muon}


def make_schedule(config: OptimizerConfig, num_steps: int) -> Schedule:
  """The learning rate at a step, with s + 1 = the steps done after it.

  Warm-up: peak · (s + 1) / num_warmup_steps, until it reaches the peak. Then
    constant: the peak;
    cosine: from the peak to final_fraction of it by half a cosine, over all
      steps that are left;
    wsd: the peak, then in a straight line to final_fraction of it over the
      last decay_fraction of the num_steps (warm-up, stable, decay).

  Args:
    config: its settings.
    num_steps: of the whole run.

  Returns:
    A function of the step, [] int32, to the rate, [] float32.

  Raises:
    ValueError: if the warm-up does not fit into the run.
  """
  num_warmup, peak = config.num_warmup_steps, config.learning_rate
  if config.schedule != "constant" and num_warmup >= num_steps:
    raise ValueError(
      f"optimizer.num_warmup_steps is {num_warmup} and num_steps {num_steps};"
      f" a {config.schedule} schedule needs steps after its warm-up."
    )
  num_decay = {
    "constant": 1,
    "cosine": num_steps - num_warmup,
    "wsd": round(config.decay_fraction * num_steps),
  }[config.schedule]
  num_decay = min(num_decay, num_steps - num_warmup)
  is_constant = config.schedule == "constant" or not num_decay
  final = 1.0 if is_constant else config.final_fraction
  num_decay = max(num_decay, 1)

  def schedule(step: jax.Array) -> jax.Array:
    done = jnp.asarray(step, jnp.float32) + 1
    warm = jnp.minimum(done / max(num_warmup, 1), 1)
    decayed = jnp.clip((done - (num_steps - num_decay)) / num_decay, 0, 1)
    if config.schedule == "cosine":
      decayed = (1 - jnp.cos(jnp.pi * decayed)) / 2
    return peak * warm * (1 - (1 - final) * decayed)

  return schedule


def decay_mask(params: Any) -> Any:
  """True for matrices and tables, False for norms and biases, by name.

  The rank does not tell them apart: stacked layers give every parameter an
  axis more.
  """
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key not in _NOT_DECAYED, params
  )
