"""The suite of training: tokens a second of both stages, and their parts."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.random_model import MODEL_SIZES, make_config, random_batch
from benchmarks.timing import (
  Roofline,
  Row,
  Version,
  compare_calls,
  compile_version,
)
from calm_jax.config import ExperimentConfig, MeshConfig
from calm_jax.families import build_model, family_of, param_axes
from calm_jax.layers.vocabulary import scored_ids
from calm_jax.losses import vocabulary
from calm_jax.losses.energy import energy_loss
from calm_jax.model.heads import build_head
from calm_jax.randomness import position_keys, stream_key
from calm_jax.training.optimizer import make_optimizer
from calm_jax.training.sharding import make_mesh
from calm_jax.training.step import Program

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
    versions = {"step": step_version(program, frozen, batch)}
    versions |= _parts(config, state, frozen, batch, key)
    inner = _calm_parts if name == "calm" else _autoencoder_parts
    versions |= inner(config, state.params, key)
    yield from compare_calls(f"{name} step", versions, seconds)
    frozen = state.params


def step_version(program: Program, frozen: Any, batch: Any) -> Version:
  """A step compiled; each call goes on from the state before."""
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
  objective = family_of(config.model).objective(config)
  axes = param_axes(build_model(config.model))
  optimizer = make_optimizer(config, axes)
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


def _autoencoder_parts(config, params, key) -> dict[str, Version]:
  """The cross-entropy of given hidden states over the vocabulary."""
  data, model = config.data, config.model
  num_tokens = data.batch_size * data.row_length
  hidden = jax.random.normal(key, (num_tokens, model.hidden_size))
  labels = jnp.zeros(num_tokens, jnp.int32)

  def total(hidden, embedding, labels):
    return vocabulary.cross_entropy_sum(
      hidden,
      embedding,
      labels,
      scored_ids(model.vocabulary),
      jnp.ones(len(labels)),
    )[0]

  version = compile_version(
    jax.value_and_grad(total, argnums=(0, 1)),
    hidden.astype(model.dtype),
    params["embedding"]["embedding"],
    labels,
    num_tokens=num_tokens,
  )
  return {"of it: cross-entropy, gradient": version}


def _calm_parts(config, params, key) -> dict[str, Version]:
  """The head with its loss, and the energy loss of given samples."""
  model, data = config.model, config.data
  shape = (data.batch_size, config.num_chunks - 1)
  num_tokens = data.batch_size * data.row_length
  hidden = jax.random.normal(key, (*shape, model.hidden_size))
  samples = jax.random.normal(
    key, (*shape, model.head.num_samples, model.latent_size)
  )
  mean = jnp.zeros((*shape, model.latent_size))
  ids = (jnp.arange(n, dtype=jnp.uint32) for n in shape)
  keys = position_keys(key, *ids)
  head = build_head(model)

  def head_total(params, hidden, mean, keys):
    variables = {"params": params}
    return head.apply(
      variables, hidden, mean, mean, keys, method="loss"
    ).loss.sum()

  def energy_total(samples, mean, keys):
    loss, _ = energy_loss(
      samples, mean, mean, keys, num_targets=model.head.num_targets
    )
    return jnp.sum(loss)

  return {
    "of it: head and loss, gradient": compile_version(
      jax.value_and_grad(head_total, argnums=(0, 1)),
      params["head"],
      hidden.astype(model.dtype),
      mean,
      keys,
      num_tokens=num_tokens,
    ),
    "of it: energy loss, gradient": compile_version(
      jax.value_and_grad(energy_total),
      samples,
      mean,
      keys,
      num_tokens=num_tokens,
    ),
  }
