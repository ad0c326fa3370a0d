"""Asks the compiler for the very training step, on devices that are absent."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from calm_jax.autoencoder import Autoencoder
from calm_jax.config import ExperimentConfig
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
  executed_flops: float  # of matrix products, on all chips
  state_bytes: int  # parameters, moments, frozen autoencoder, batch
  activation_bytes: int  # kept by the forward pass for the backward
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
  known = {
    "num_parameters": sum(
      leaf.size for leaf in jax.tree.leaves(program.shapes.params)
    ),
    "executed_flops": matrix_flops(traced.jaxpr),
    "notes": program.notes,
  }
  activations = _activation_bytes(config, program.shapes.params, frozen, batch)
  activations //= mesh.size // mesh.shape["tensor"]
  with jax.set_mesh(mesh):
    lowered = traced.lower()
  # The program takes only what it reads, but a chip holds all of it.
  state = sum(map(_bytes_of_a_shard, jax.tree.leaves(arguments)))
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


def _activation_bytes(
  config: ExperimentConfig, params: Any, frozen: Any, batch: Any
) -> int:
  """What the forward pass of a microbatch keeps, on all devices together.

  Twice the rows keep twice the activations and the same parameters, so the
  difference of the two is the activations.
  """
  objective = make_objective(config)

  def forward(params: Any, frozen: Any, batch: Any, key: jax.Array) -> Any:
    loss = lambda params: objective(params, frozen, batch, key)
    return jax.vjp(loss, params, has_aux=True)[1]

  def kept(num_rows: int) -> int:
    rows = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype), batch
    )
    shapes = jax.eval_shape(forward, params, frozen, rows, jax.random.key(0))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))

  num_rows = config.data.batch_size // config.num_microbatches
  return kept(2 * num_rows) - kept(num_rows)


def _replicated(mesh: Mesh, x: Any) -> jax.ShapeDtypeStruct:
  place = sharding.replicated(mesh)
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def _bytes_of_a_shard(x: Any) -> int:
  shape = x.sharding.shard_shape(x.shape)
  return int(np.prod(shape, dtype=np.int64)) * x.dtype.itemsize
