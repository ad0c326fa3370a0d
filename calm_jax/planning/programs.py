"""Compiles evaluation and generation for devices that are absent."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calm_jax.config import CHOSEN, ExperimentConfig
from calm_jax.data.batch import Batch
from calm_jax.evaluation import prediction
from calm_jax.families import build_model, family_of, param_axes, param_shapes
from calm_jax.families.rounding import reads_rounded
from calm_jax.planning.collectives import Collective, find_collectives
from calm_jax.planning.topology import (
  Topology,
  available_bytes,
  compiler_versions,
  refused_bytes,
)
from calm_jax.randomness import stream_key
from calm_jax.sampling import generate, rows
from calm_jax.sampling.prompt import Prompts
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.training import sharding
from calm_jax.training.memory import bytes_of_shards, frozen_shapes

_WHOLE = PartitionSpec()
_NUM_SAMPLES = 16  # S, draws a position, the default of launch.evaluate


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramPlan:
  """One program on one slice; bytes are those of a chip."""

  program: str
  topology: str
  num_chips: int
  mesh: dict[str, int]
  num_rows: int  # on all chips
  num_positions: int  # chunks a row
  loading_bytes: int  # for a moment, while parameters are still float32
  bytes_by_kind: dict[str, int]  # parameters, rows, temporaries
  bytes_available: int
  compiled: bool  # False: refused for want of memory
  collectives: list[Collective]  # none if refused

  @property
  def bytes_per_chip(self) -> int:
    return sum(self.bytes_by_kind.values())

  @property
  def fits(self) -> bool:
    most = max(self.bytes_per_chip, self.loading_bytes)
    return self.compiled and most <= self.bytes_available

  def to_dict(self) -> dict[str, Any]:
    """For JSON."""
    values = dataclasses.asdict(self)
    values["collectives"] = [item._asdict() for item in self.collectives]
    return values | {
      "bytes_per_chip": self.bytes_per_chip,
      "fits": self.fits,
      "versions": compiler_versions(),
    }


def plan_program(
  name: str, config: ExperimentConfig, topology: Topology, rows_per_part: int
) -> ProgramPlan:
  """Compiles what `launch.evaluate` or `launch.generate` runs.

  evaluate scores rows of the training's length at every chunk from 16 draws;
  generate fills rows of that length by the hybrid method at T = 0.5.

  Args:
    name: of `PROGRAMS`.
    config: from `assumptions.complete`, with the mesh to plan for.
    topology: from `find_topology`.
    rows_per_part: rows of each of the mesh's `data` parts.

  Returns:
    The plan.

  Raises:
    ValueError: if the model predicts nothing or does not fit the mesh.
    JaxRuntimeError: if it cannot be compiled for another reason than memory.
  """
  if not config.model.predicts:
    raise ValueError(
      "the config is one of an autoencoder, which predicts nothing; give a"
      " next-vector or token model to plan evaluation or generation."
    )
  if config.mesh.sequence not in (CHOSEN, 1):
    raise ValueError(
      f"mesh.sequence is {config.mesh.sequence}; it splits the rows of training"
      " alone, so leave it out here."
    )
  mesh = sharding.make_mesh(config.mesh, topology.devices)
  sharding.check_model_fits(config.model, mesh)
  num_rows = rows_per_part * rows.num_parts(mesh)
  params = _bound_shapes(config, mesh)
  lower = {"evaluate": _lower_scores, "generate": _lower_generation}[name]
  with rows.on(mesh):
    lowered, others = lower(config, mesh, params, num_rows)
    known = {
      "parameters": bytes_of_shards(params),
      "rows": bytes_of_shards(others),
    }
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      rest, collectives, is_compiled = refused_bytes(str(error))[0], [], False
      rest = max(rest - sum(known.values()), 0)
    else:
      memory = compiled.memory_analysis()
      rest = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
      rest += memory.output_size_in_bytes - memory.alias_size_in_bytes
      collectives = find_collectives(compiled.as_text(), mesh.size)
      is_compiled = True
  return ProgramPlan(
    program=name,
    topology=topology.name,
    num_chips=topology.num_chips,
    mesh=dict(mesh.shape),
    num_rows=num_rows,
    num_positions=config.num_chunks,
    loading_bytes=known["parameters"] + _float32_bytes(params),
    bytes_by_kind=known | {"temporaries": rest},
    bytes_available=available_bytes(topology),
    compiled=is_compiled,
    collectives=collectives,
  )


def describe(plan: ProgramPlan) -> str:
  """A plan in lines."""
  gib = lambda size: f"{size / 1024**3:.2f} GiB"
  kinds = ", ".join(f"{k} {gib(v)}" for k, v in plan.bytes_by_kind.items())
  mesh = " × ".join(f"{k} {v}" for k, v in plan.mesh.items() if v > 1)
  lines = [
    f"{plan.topology}: {plan.program}, chips {plan.num_chips}, mesh"
    f" {mesh or 'of one chip'}, {plan.num_rows} rows of {plan.num_positions}"
    " chunks",
    f"memory per chip  {gib(plan.bytes_per_chip)} of"
    f" {gib(plan.bytes_available)} ({kinds}); {gib(plan.loading_bytes)} for a"
    " moment while it is loaded",
  ]
  lines += [
    f"  {it.count} × {it.kind} of {it.group_size} chips, {it.where}:"
    f" {it.bytes / 1e6:,.1f} MB"
    for it in plan.collectives[:8]
  ]
  if not plan.fits:
    lines.append(
      "does not fit: give --mesh=tensor=N to split the parameters, or fewer"
      " --rows."
    )
  return "\n".join(lines)


def _bound_shapes(config: ExperimentConfig, mesh: Mesh) -> dict[str, Any]:
  """What a sampler is bound to, in the dtypes it is kept in."""
  model = build_model(config.model)
  shapes = param_shapes(model)
  places = sharding.place_params(mesh, shapes, param_axes(model)).shardings
  params = _kept(config.model, config.autoencoder, shapes, places)
  frozen = frozen_shapes(config)
  if frozen is not None:
    whole = sharding.replicated(mesh, frozen)
    frozen = _kept(config.autoencoder, None, frozen, whole)
  number = jax.ShapeDtypeStruct((), np.float32, sharding=_whole(mesh))
  return jax.tree.map(
    lambda x: number if isinstance(x, float) else x,
    family_of(config.model).bind_params(params, frozen),
  )


def _float32_bytes(params: Any) -> int:
  """Of a chip's part, before anything is rounded."""
  return bytes_of_shards(
    jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, np.float32, sharding=x.sharding),
      params,
    )
  )


def _kept(model: Any, autoencoder: Any, shapes: Any, places: Any) -> Any:
  reads = reads_rounded(model, autoencoder)
  return jax.tree.map(
    lambda x, is_rounded, place: jax.ShapeDtypeStruct(
      x.shape, model.dtype if is_rounded else x.dtype, sharding=place
    ),
    shapes,
    reads,
    places,
  )


def _lower_scores(
  config: ExperimentConfig, mesh: Mesh, params: Any, num_rows: int
) -> tuple[Any, Any]:
  shape = (num_rows, config.num_chunks)
  tokens = (*shape, config.model.chunk_size)
  split = functools.partial(_split, mesh)
  batch = Batch(
    tokens=split(tokens, np.int32),
    token_mask=split(tokens, np.bool_),
    segment_ids=split(shape, np.int32),
    row_ids=split(shape[:1], np.uint32),
  )
  settings = prediction.PredictionSettings(num_samples=_NUM_SAMPLES)
  sampler_fn = family_of(config.model).sampler_fn(config)
  lowered = prediction.score.lower(sampler_fn, params, batch, settings, mesh)
  return lowered, batch


def _lower_generation(
  config: ExperimentConfig, mesh: Mesh, params: Any, num_rows: int
) -> tuple[Any, Any]:
  family = family_of(config.model)
  sampler_fn = family.sampler_fn(config)
  num_new = config.num_chunks - 1
  split = functools.partial(_split, mesh)
  prompts = Prompts(
    tokens=split((num_rows, 1, config.model.chunk_size), np.int32),
    num_chunks=split((num_rows,), np.int32),
  )
  begun = jax.eval_shape(
    functools.partial(generate.start, sampler_fn, num_new_chunks=num_new),
    params,
    prompts,
  )
  # One number for each device that goes on by itself.
  is_split = mesh.size > rows.num_parts(mesh)
  counts = (1 if is_split else mesh.size,)
  counts = jax.ShapeDtypeStruct(counts, np.int32)
  begun = jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
    ),
    begun._replace(num_new=counts),
    _specs(begun)._replace(num_new=_WHOLE if is_split else rows.ROWS),
  )
  keys = jax.eval_shape(lambda: stream_key(0, "generation_noise"))
  keys = generate.RowKeys(*[split((num_rows,), keys.dtype)] * 2)
  settings = SamplingSettings(temperature=0.5, method="hybrid")
  lowered = generate.advance.lower(
    sampler_fn,
    params,
    begun,
    keys,
    jax.ShapeDtypeStruct((), np.int32, sharding=_whole(mesh)),
    family.temperature_settings(settings).bind(),
    mesh,
  )
  return lowered, begun


def _specs(begun: generate.Generation) -> generate.Generation:
  """Where the rows of a generation are, leaf by leaf."""
  return jax.tree.map(
    lambda spec, part: jax.tree.map(lambda _: spec, part),
    generate.SPLIT,
    begun,
    is_leaf=lambda it: isinstance(it, PartitionSpec),
  )


def _whole(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, _WHOLE)


def _split(mesh: Mesh, shape: tuple[int, ...], dtype: Any) -> Any:
  place = NamedSharding(mesh, rows.ROWS)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=place)
