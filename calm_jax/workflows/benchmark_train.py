"""The suite of training: tokens a second of both stages, and their parts."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from calm_jax.config import ExperimentConfig, MeshConfig, OptimizerConfig
from calm_jax.losses.energy import energy_loss
from calm_jax.randomness import position_keys, stream_key
from calm_jax.training.objective import make_objective
from calm_jax.training.optimizer import make_optimizer
from calm_jax.training.sharding import make_mesh
from calm_jax.training.step import Program
from calm_jax.workflows.benchmark_evaluate import random_batch
from calm_jax.workflows.benchmark_models import MODEL_SIZES, make_config
from calm_jax.workflows.benchmark_timing import (
  Roofline,
  Row,
  Version,
  compare_calls,
  compile_version,
)

# Rows and chunks of a batch; the authors' figures are for 4 × 1024 tokens.
_BATCHES = {"tiny": (2, 8), "cpu": (4, 256), "accelerator": (8, 2048)}


def run(
  size: str, seed: int, roofline: Roofline, seconds: float
) -> Iterator[Row]:
  """Yields for each stage a row for the step, and one for each part of it.

  The parts are programs of their own. What they keep to themselves and the
  step's program does not makes them longer than their share of it, so they
  need not add up; the backward pass is what the gradient takes beyond the loss.
  """
  del roofline
  num_rows, num_chunks = _BATCHES[size]
  calm = make_config(
    MODEL_SIZES[size], num_chunks=num_chunks, num_rows=num_rows
  )
  autoencoder = ExperimentConfig(model=calm.autoencoder, data=calm.data)
  key = stream_key(seed, "benchmark")
  batch = jax.device_put(random_batch(key, num_rows, num_chunks, calm))
  mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
  frozen = None
  for name, config in (("autoencoder", autoencoder), ("calm", calm)):
    program = Program(config, mesh)
    state = program.init()
    versions = {"step": _step(program, frozen, batch)}
    versions |= _parts(config, state, frozen, batch, key)
    if name == "calm":
      versions |= _energy_loss(config, key)
    yield from compare_calls(f"{name} step", versions, seconds)
    frozen = state.params


def _step(program: Program, frozen: Any, batch: Any) -> Version:
  state = program.init()
  compiled = program.trace(state, frozen, batch).lower().compile()
  holder = [state]

  def call():
    holder[0], sums = compiled(holder[0], frozen, batch)
    return sums

  return Version(
    call, compiled.memory_analysis().temp_size_in_bytes, batch.tokens.size
  )


def _parts(config, state, frozen, batch, key) -> dict[str, Version]:
  objective = make_objective(config)
  optimizer = make_optimizer(OptimizerConfig(), config.num_steps)
  num_tokens = batch.tokens.size

  def update(gradients, optimizer_state, params):
    updates, optimizer_state = optimizer.update(
      gradients, optimizer_state, params
    )
    return optax.apply_updates(params, updates), optimizer_state

  loss = (objective, state.params, frozen, batch, key)
  gradient = (jax.value_and_grad(objective, has_aux=True), *loss[1:])
  return {
    "of it: loss": compile_version(*loss, num_tokens=num_tokens),
    "of it: loss and gradient": compile_version(
      *gradient, num_tokens=num_tokens
    ),
    "of it: optimizer": compile_version(
      update,
      state.params,
      state.optimizer_state,
      state.params,
      num_tokens=num_tokens,
    ),
  }


def _energy_loss(config, key) -> dict[str, Version]:
  """The energy loss of given samples, with the gradient to them."""
  head = config.model.head
  shape = (config.data.batch_size, config.num_chunks - 1)
  size = config.model.latent_size
  samples = jax.random.normal(key, (*shape, head.num_samples, size))
  mean = jnp.zeros((*shape, size))
  ids = (jnp.arange(n, dtype=jnp.uint32) for n in shape)
  keys = position_keys(key, *ids)

  def total(samples, mean, keys):
    loss, _ = energy_loss(
      samples, mean, mean, keys, num_targets=head.num_targets
    )
    return jnp.sum(loss)

  version = compile_version(
    jax.value_and_grad(total),
    samples,
    mean,
    keys,
    num_tokens=config.data.batch_size * config.data.row_length,
  )
  return {"of it: energy loss, gradient": version}
