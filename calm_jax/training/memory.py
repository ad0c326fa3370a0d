"""What a device has to hold, counted from shapes, before any compiler."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from calm_jax.config import ExperimentConfig, ModelConfig
from calm_jax.data.batch import Batch
from calm_jax.families import (
  build_model,
  family_of,
  param_axes,
  param_shapes,
)
from calm_jax.layers.remat import save_products
from calm_jax.randomness import root_key
from calm_jax.training import processes
from calm_jax.training.optimizer import make_optimizer
from calm_jax.training.state import init_state

_NUM_ROWS = 7  # no size of a model, so that rows are recognised

# What the compiler needs for a moment, by the kept activations. On v5e it has
# asked for up to so much, on v5p and v6e for half of it.
_TEMPORARIES = 1.8


class StepMemory:
  """Bytes that a device holds in a step, for many layouts of one run.

  The mesh and the number of microbatches of every config have to be filled in.
  """

  def __init__(self):
    self._per_row: dict[str, int] = {}  # by remat, tracing takes seconds
    self._fixed: _Fixed | None = None

  def least(self, config: ExperimentConfig) -> float:
    """State and kept activations, without what the compiler adds."""
    fixed, mesh = self._of_run(config), config.mesh
    split = (fixed.trained + fixed.teacher) / (mesh.fsdp * mesh.tensor)
    return split + fixed.frozen + self._of_rows(config)

  def expected(self, config: ExperimentConfig) -> float:
    """What is allowed for a step, with gradients and temporaries.

    The committed plans (benchmarks/plans) take 0.58 to 0.92 times this; m on
    v5e:2x2, in 16 and 32 microbatches, takes 0.99 and 1.01 times. Of an
    autoencoder the compiler keeps less than is counted: k4 there takes 0.24
    times this.
    """
    fixed, mesh = self._of_run(config), config.mesh
    # Those of all microbatches, and those of one that are added to them.
    num_gradients = 1 if config.num_microbatches == 1 else 2
    gradients = num_gradients * 4 * fixed.num_parameters
    gradients /= mesh.fsdp * mesh.tensor
    temporaries = _TEMPORARIES * self._of_rows(config)
    return self.least(config) + gradients + temporaries

  def _of_rows(self, config: ExperimentConfig) -> float:
    """Activations that a device keeps of a microbatch."""
    num_parts = config.num_microbatches * config.mesh.data * config.mesh.fsdp
    return self._of_row(config) * config.data.batch_size / num_parts

  def _of_row(self, config: ExperimentConfig) -> float:
    """Activations of a row, or of the chunks of it that a device has."""
    remat = getattr(config.model, "remat", "none")
    if remat not in self._per_row:
      self._per_row[remat] = activation_bytes_per_row(config)
    return self._per_row[remat] / config.mesh.sequence

  def _of_run(self, config: ExperimentConfig) -> "_Fixed":
    if self._fixed is None:
      model = build_model(config.model)
      optimizer = make_optimizer(config, param_axes(model))
      init = functools.partial(init_state, model, optimizer, config.seed)
      state = jax.eval_shape(init)
      self._fixed = _Fixed(
        trained=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        teacher=4 * size_of(_shapes(config.teacher)),
        frozen=4 * size_of(frozen_shapes(config)),
        num_parameters=size_of(state.params),
      )
    return self._fixed


class _Fixed(NamedTuple):
  """What does not depend on the layout; bytes on all devices together."""

  trained: int  # parameters and moments
  teacher: int  # parameters, split like those that are trained
  frozen: int  # of the autoencoder, which lies whole on every device
  num_parameters: int


def device_bytes() -> int | None:
  """Memory of a local device; None where it does not say, as a CPU.

  The same on all processes: what process 0 finds, in whole MiB.
  """

  def find() -> int:
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", 0) // 2**20  # as int32 holds it

  return processes.first_finds(find) * 2**20 or None


def activation_bytes_per_row(config: ExperimentConfig) -> int:
  """What the forward pass of one row keeps for the backward pass, at least.

  A scan over the layers keeps what JAX decides. Elsewhere the compiler decides;
  it keeps no more than the results of products, and computes again what is
  elementwise.

  Args:
    config: resolved.

  Returns:
    Bytes, on all devices together.
  """
  num_layers = getattr(config.model, "num_layers", 0)
  has_kernel = hasattr(config.model, "attention_implementation")
  if has_kernel and jax.default_backend() != "gpu":
    # As on a TPU, where attention never keeps its scores.
    model = dataclasses.replace(config.model, attention_implementation="pallas")
    config = dataclasses.replace(config, model=model)
  objective = family_of(config.model).objective(config)
  params, frozen = (
    param_shapes(build_model(config.model)),
    frozen_shapes(config),
  )

  def kept(num_rows: int, only_products: bool) -> tuple[int, int]:
    """Bytes that layers keep, and the others."""

    def forward(params: Any, frozen: Any, batch: Batch, key: jax.Array) -> Any:
      loss = lambda params: objective(params, frozen, batch, key)
      if only_products:
        policy = jax.checkpoint_policies.save_from_both_policies(
          jax.checkpoint_policies.dots_saveable, save_products
        )
        loss = jax.checkpoint(loss, policy=policy)
      return jax.vjp(loss, params, has_aux=True)[1]

    rows = _batch(config, num_rows)
    shapes = jax.eval_shape(forward, params, frozen, rows, root_key(0))
    sizes = [0, 0]
    for x in jax.tree.leaves(shapes):
      is_of_layers = x.shape[:2] == (num_layers, num_rows)
      sizes[not is_of_layers] += x.size * x.dtype.itemsize
    return tuple(sizes)

  # More rows keep more activations and the same parameters, so the difference
  # of the two is the activations.
  of_layers = kept(_NUM_ROWS, False)[0]
  others = min(
    kept(2 * _NUM_ROWS, only_products)[1] - kept(_NUM_ROWS, only_products)[1]
    for only_products in (False, True)
  )
  return (of_layers + others) // _NUM_ROWS


def frozen_shapes(config: ExperimentConfig) -> Any:
  """Shapes of what is not trained, or None."""
  return _shapes(config.autoencoder)


def _shapes(model: ModelConfig | None) -> Any:
  """Those of the parameters of a model, if there is one."""
  return None if model is None else param_shapes(build_model(model))


def size_of(tree: Any) -> int:
  """Numbers in the arrays of a tree."""
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def bytes_of_shards(tree: Any) -> int:
  """What one device holds of arrays."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _batch(config: ExperimentConfig, num_rows: int) -> Batch:
  chunks = (num_rows, config.num_chunks)
  tokens = (*chunks, config.model.chunk_size)
  return Batch(
    tokens=jax.ShapeDtypeStruct(tokens, np.int32),
    token_mask=jax.ShapeDtypeStruct(tokens, np.bool_),
    segment_ids=jax.ShapeDtypeStruct(chunks, np.int32),
    row_ids=jax.ShapeDtypeStruct((num_rows,), np.uint32),
  )
