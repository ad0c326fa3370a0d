"""Asks the compiler for the very training step, on devices that are absent."""

import functools
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from calm_jax.config import ExperimentConfig
from calm_jax.families.matrix_flops import matrix_flops
from calm_jax.planning.collectives import Collective, find_collectives
from calm_jax.planning.topology import refused_bytes
from calm_jax.training import sharding
from calm_jax.training.memory import (
  activation_bytes_per_row,
  bytes_of_shards,
  frozen_shapes,
  size_of,
)
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
  arguments = argument_shapes(config, program)
  traced = program.trace(*arguments)
  params = program.shapes.params
  num_parameters = size_of(params)
  known = {
    "num_parameters": num_parameters,
    "num_multiplied": num_parameters - _looked_up(config, params),
    "executed_flops": matrix_flops(traced.jaxpr) + _attention_flops(config),
    "notes": program.notes,
  }
  num_rows = config.data.batch_size // config.num_microbatches
  activations = activation_bytes_per_row(config) * num_rows
  activations //= mesh.size // mesh.shape["tensor"]
  with jax.set_mesh(mesh):
    lowered = traced.lower()
  # The program takes only what it reads, but a chip holds all of it.
  state = bytes_of_shards(arguments)
  known["trained_state_bytes"] = bytes_of_shards(program.shapes)
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


def argument_shapes(config: ExperimentConfig, program: Program) -> Any:
  """State, frozen parameters and batch of a step, with their shardings."""
  mesh = program.mesh
  frozen = jax.tree.map(
    functools.partial(_replicated, mesh), frozen_shapes(config)
  )
  return program.shapes, frozen, sharding.batch_shapes(config, mesh)


def _looked_up(config: ExperimentConfig, params: Any) -> int:
  """Parameters of a table whose rows are read by id, and of no product."""
  if config.model.ties_embedding:
    return 0
  paths = jax.tree_util.tree_leaves_with_path(params)
  return sum(
    leaf.size for path, leaf in paths if "'embedding'" in str(path[-1])
  )


def _attention_flops(config: ExperimentConfig) -> float:
  """What the attention kernel multiplies at least, hidden from the trace.

  Two products forward and four backward for each position and those up to it;
  where it is computed again, two more.
  """
  model = config.model
  attention = getattr(model, "attention_implementation", "reference")
  if attention not in ("auto", "pallas"):
    return 0.0
  pairs = config.num_chunks * (config.num_chunks + 1) / 2
  width = model.num_heads * model.head_size
  num_products = 8 if model.remat == "full" else 6
  per_row = num_products * 2 * model.num_layers * pairs * width
  return config.data.batch_size * per_row


def _replicated(mesh: Mesh, x: Any) -> jax.ShapeDtypeStruct:
  place = sharding.replicated(mesh)
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
