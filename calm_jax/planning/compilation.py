"""Asks the compiler for the very training step, on devices that are absent."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from calm_jax.autoencoder import Autoencoder
from calm_jax.config import (
  AutoencoderConfig,
  BackboneConfig,
  ExperimentConfig,
)
from calm_jax.planning.collectives import Collective, find_collectives
from calm_jax.planning.matrix_flops import matrix_flops
from calm_jax.planning.topology import refused_bytes
from calm_jax.training import sharding
from calm_jax.training.objective import make_objective
from calm_jax.training.state import param_shapes
from calm_jax.training.step import Program


class CompiledStep(NamedTuple):
  """One training step, compiled or refused; bytes are those of one chip."""

  is_compiled: bool  # False: the program does not fit into memory
  num_parameters: int  # trained
  num_multiplied: int  # those of them that stand in products, not in a look-up
  executed_flops: float  # at least, of products and attention, on all chips
  state_bytes: int  # parameters, moments, frozen autoencoder, batch
  trained_state_bytes: int  # parameters and moments, a part of the state
  activation_bytes: int  # kept by the forward pass for the backward, at least
  temporary_bytes: int  # everything else
  collectives: list[Collective]  # none if refused
  notes: list[str]  # arrays that are not split as the table says

  @property
  def total_bytes(self) -> int:
    return self.state_bytes + self.activation_bytes + self.temporary_bytes


def compile_step(config: ExperimentConfig, mesh: Mesh) -> CompiledStep:
  """Compiles a step.

  Args:
    config: resolved.
    mesh: of `sharding.make_mesh`; its devices may be absent.

  Returns:
    What the compiler says of it.

  Raises:
    ValueError: if config and mesh do not fit.
    JaxRuntimeError: if it cannot be compiled for another reason than memory.
  """
  program = Program(config, mesh)
  frozen = None
  if config.autoencoder is not None:
    frozen = jax.tree.map(
      functools.partial(_replicated, mesh),
      param_shapes(Autoencoder(config.autoencoder)),
    )
  batch = sharding.batch_shapes(config, mesh)
  arguments = (program.shapes, frozen, batch)
  traced = program.trace(*arguments)
  params = program.shapes.params
  num_parameters = _size(params)
  known = {
    "num_parameters": num_parameters,
    "num_multiplied": num_parameters - _looked_up(config, params),
    "executed_flops": matrix_flops(traced.jaxpr) + _attention_flops(config),
    "notes": program.notes,
  }
  activations = _activation_bytes(config, params, frozen, batch)
  activations //= mesh.size // mesh.shape["tensor"]
  with jax.set_mesh(mesh):
    lowered = traced.lower()
  # The program takes only what it reads, but a chip holds all of it.
  state = _bytes_of_shards(arguments)
  known["trained_state_bytes"] = _bytes_of_shards(program.shapes)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    rest = max(refused_bytes(str(error))[0] - state, 0)
    compiled, collectives = None, []
  else:
    memory = compiled.memory_analysis()
    state = max(state, memory.argument_size_in_bytes)
    rest = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    rest += memory.output_size_in_bytes - memory.alias_size_in_bytes
    collectives = find_collectives(compiled.as_text(), mesh.size)
  return CompiledStep(
    is_compiled=compiled is not None,
    state_bytes=state,
    # Counted from shapes; `tensor` may split some of them, too.
    activation_bytes=min(activations, rest),
    temporary_bytes=max(rest - activations, 0),
    collectives=collectives,
    **known,
  )


def _looked_up(config: ExperimentConfig, params: Any) -> int:
  """Parameters of a table whose rows are read by id, and of no product."""
  if isinstance(config.model, AutoencoderConfig):
    return 0  # the decoder multiplies by the same table
  paths = jax.tree_util.tree_leaves_with_path(params)
  return sum(
    leaf.size for path, leaf in paths if "'embedding'" in str(path[-1])
  )


def _attention_flops(config: ExperimentConfig) -> float:
  """What the attention kernel multiplies at least, hidden from the trace.

  Two products forward and four backward for each position and those up to it;
  where layers are computed again, two more.
  """
  model = config.model
  if not isinstance(model, BackboneConfig):
    return 0.0
  if model.attention_implementation not in ("auto", "pallas"):
    return 0.0
  pairs = config.num_chunks * (config.num_chunks + 1) / 2
  width = model.num_heads * model.head_size
  num_products = 6 if model.remat == "none" else 8
  per_row = num_products * 2 * model.num_layers * pairs * width
  return config.data.batch_size * per_row


def _activation_bytes(
  config: ExperimentConfig, params: Any, frozen: Any, batch: Any
) -> int:
  """What the forward pass of a microbatch keeps, on all devices together.

  A scan over the layers keeps what JAX decides. Elsewhere the compiler decides;
  it keeps no more than the results of products, and computes again what is
  elementwise. Twice the rows keep twice the activations and the same
  parameters, so the difference of the two is the activations.
  """
  num_layers = getattr(config.model, "num_layers", 0)
  if num_layers:  # as on a TPU, where attention never keeps its scores
    model = dataclasses.replace(config.model, attention_implementation="pallas")
    config = dataclasses.replace(config, model=model)
  objective = make_objective(config)

  def kept(num_rows: int, only_products: bool) -> tuple[int, int]:
    """Bytes that layers keep, and the others."""

    def forward(params: Any, frozen: Any, batch: Any, key: jax.Array) -> Any:
      loss = lambda params: objective(params, frozen, batch, key)
      if only_products:
        policy = jax.checkpoint_policies.dots_saveable
        loss = jax.checkpoint(loss, policy=policy)
      return jax.vjp(loss, params, has_aux=True)[1]

    rows = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype), batch
    )
    shapes = jax.eval_shape(forward, params, frozen, rows, jax.random.key(0))
    sizes = [0, 0]
    for x in jax.tree.leaves(shapes):
      is_of_layers = x.shape[:2] == (num_layers, num_rows)
      sizes[not is_of_layers] += x.size * x.dtype.itemsize
    return tuple(sizes)

  num_rows = config.data.batch_size // config.num_microbatches
  of_layers = kept(num_rows, False)[0]
  others = min(
    kept(2 * num_rows, only_products)[1] - kept(num_rows, only_products)[1]
    for only_products in (False, True)
  )
  return of_layers + others


def _replicated(mesh: Mesh, x: Any) -> jax.ShapeDtypeStruct:
  place = sharding.replicated(mesh)
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _size(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _bytes_of_shards(tree: Any) -> int:
  """What one device holds of arrays."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )
