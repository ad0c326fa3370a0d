"""What a chip has to hold, counted from shapes, before any compiler."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from calm_jax.config import ExperimentConfig
from calm_jax.data.batch import Batch
from calm_jax.families import build_model, family_of, param_shapes
from calm_jax.layers.remat import save_products
from calm_jax.randomness import root_key

_NUM_ROWS = 7  # no size of a model, so that rows are recognised


class LeastMemory:
  """Bytes that a chip holds at least, for many configs of one run.

  What the compiler adds is left out: gradients, gathered weights, and what the
  forward and the backward pass need for a moment.
  """

  def __init__(self):
    self._per_row: dict[str, int] = {}  # by remat, tracing takes seconds
    self._sizes: tuple[int, int] | None = None  # of parameters: trained, frozen

  def __call__(self, config: ExperimentConfig) -> float:
    """Of a run; the mesh has to name every size."""
    remat = getattr(config.model, "remat", "none")
    if remat not in self._per_row:
      self._per_row[remat] = activation_bytes_per_row(config)
    if self._sizes is None:
      self._sizes = (
        size_of(param_shapes(build_model(config.model))),
        size_of(frozen_shapes(config)),
      )
    mesh = config.mesh
    num_rows = config.data.batch_size / config.num_microbatches
    num_parts = mesh.data * mesh.fsdp * mesh.sequence
    activations = self._per_row[remat] * num_rows / num_parts
    trained, frozen = self._sizes
    # A parameter and its two moments, in float32.
    return activations + 12 * trained / (mesh.fsdp * mesh.tensor) + 4 * frozen


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
  if num_layers:  # as on a TPU, where attention never keeps its scores
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
  if config.autoencoder is None:
    return None
  return param_shapes(build_model(config.autoencoder))


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
