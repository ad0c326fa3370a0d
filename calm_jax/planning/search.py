"""Tries meshes, remat policies and microbatches for one run on one slice."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from calm_jax.config import BackboneConfig, ExperimentConfig, MeshConfig
from calm_jax.planning.plan import Plan
from calm_jax.training.progress import ProgressBar

_REMAT = ("none", "dots", "full")  # more and more is computed again
_MAX_TENSOR = 8
_MAX_MICROBATCHES = 16


def search(
  config: ExperimentConfig,
  num_chips: int,
  *,
  plan_fn: Callable[[ExperimentConfig], Plan],
  max_compilations: int,
) -> list[Plan]:
  """Compiles candidates, the most promising first.

  On one mesh, a candidate that computes more again, or in more parts, than one
  that fits is slower, and is not tried.

  Args:
    config: from `assumptions.complete`.
    num_chips: of the slice.
    plan_fn: plans one candidate.
    max_compilations: after so many the search ends.

  Returns:
    The plans that fit, the fastest first.
  """
  waiting = [
    list(_on_mesh(config, mesh, num_chips))
    for mesh in _meshes(config, num_chips)
  ]
  total = min(max_compilations, sum(map(len, waiting)))
  bar = ProgressBar("compiling", total, 0, is_active=True)
  found = []
  num_tried = 0
  # One candidate of each mesh, then the next of those where nothing fits yet.
  while waiting and num_tried < max_compilations:
    for candidates in list(waiting)[: max_compilations - num_tried]:
      plan = plan_fn(candidates.pop(0))
      num_tried += 1
      bar.advance()
      if plan.fits:
        found.append(plan)
      if plan.fits or not candidates:
        waiting.remove(candidates)
  bar.close()
  return sorted(found, key=lambda plan: plan.rank)


def _meshes(config: ExperimentConfig, num_chips: int) -> Iterator[MeshConfig]:
  """Without `tensor` first, and `fsdp` from 16 on, then wider, then less."""
  num_heads = getattr(config.model, "num_heads", 1)
  sizes = [n for n in range(1, num_chips + 1) if num_chips % n == 0]
  for tensor, sequence in itertools.product(sizes, (1, 2, 4)):
    num_parts, rest = divmod(num_chips, tensor * sequence)
    if rest or tensor > _MAX_TENSOR or num_heads % tensor:
      continue
    if config.num_chunks % sequence or config.data.batch_size % num_parts:
      continue
    wide = [n for n in sizes if num_parts % n == 0 and n >= 16]
    narrow = [n for n in sizes if num_parts % n == 0 and n < 16]
    for fsdp in (*wide, *reversed(narrow)):
      yield MeshConfig(
        data=num_parts // fsdp, fsdp=fsdp, tensor=tensor, sequence=sequence
      )


def _on_mesh(
  config: ExperimentConfig, mesh: MeshConfig, num_chips: int
) -> Iterator[ExperimentConfig]:
  """Candidates of one mesh, those that repeat the least first."""
  num_parts = num_chips // (mesh.tensor * mesh.sequence)
  is_backbone = isinstance(config.model, BackboneConfig)
  for remat, power in itertools.product(
    _REMAT if is_backbone else ("none",), range(_MAX_MICROBATCHES.bit_length())
  ):
    num_microbatches = 2**power
    if config.data.batch_size % (num_parts * num_microbatches):
      continue
    model = config.model
    if is_backbone:
      model = dataclasses.replace(model, remat=remat)
    yield dataclasses.replace(
      config, model=model, mesh=mesh, num_microbatches=num_microbatches
    )
