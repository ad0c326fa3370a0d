"""Tries meshes, remat policies and microbatches for one run on one slice."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

from calm_jax.config import ExperimentConfig, MeshConfig
from calm_jax.planning.plan import Plan
from calm_jax.training.progress import ProgressBar
from calm_jax.training.sharding import divisors

# More and more is computed again: about as bad as so many doublings of the
# microbatches.
_REMAT = {"none": 0, "dots": 1, "full": 3}
_MAX_TENSOR = 8
_MAX_MICROBATCHES = 16


def search(
  config: ExperimentConfig,
  num_chips: int,
  *,
  plan_fn: Callable[[ExperimentConfig], Plan],
  least_bytes_fn: Callable[[ExperimentConfig], float],
  num_bytes: int,
  max_compilations: int,
) -> list[Plan]:
  """Compiles candidates, the most promising first.

  On one mesh, a candidate that computes more again, or in more parts, than one
  that fits is slower, and is not tried. Nor is one whose least memory, times
  what the compiler has asked for beyond that so far, is more than there is.

  Args:
    config: from `assumptions.complete`.
    num_chips: of the slice.
    plan_fn: plans one candidate.
    least_bytes_fn: what a chip holds of a candidate at least.
    num_bytes: what a chip has.
    max_compilations: after so many the search ends.

  Returns:
    The plans that fit, the fastest first, and then those that do not, the
    smallest first.
  """
  waiting = [
    list(_on_mesh(config, mesh, num_chips))
    for mesh in _meshes(config, num_chips)
  ]
  bar = ProgressBar("compiling", max_compilations, 0, is_active=True)
  plans: list[Plan] = []
  factors = []  # what each has needed, by its least memory
  # One candidate of each mesh, then the next of those where nothing fits yet.
  while waiting and len(plans) < max_compilations:
    for candidates in list(waiting):
      limit = num_bytes / min(factors, default=1.0)
      candidate = _next_likely(candidates, least_bytes_fn, limit)
      if candidate is None or len(plans) == max_compilations:
        waiting.remove(candidates)
        continue
      plan = plan_fn(candidate)
      plans.append(plan)
      factors.append(plan.bytes_per_chip / least_bytes_fn(candidate))
      bar.advance()
      if plan.fits:
        waiting.remove(candidates)
  bar.close()
  fitting = [plan for plan in plans if plan.fits]
  others = [plan for plan in plans if not plan.fits]
  return [
    *sorted(fitting, key=lambda plan: plan.rank),
    *sorted(others, key=lambda plan: plan.bytes_per_chip),
  ]


def _next_likely(
  candidates: list[ExperimentConfig],
  least_bytes_fn: Callable[[ExperimentConfig], float],
  num_bytes: float,
) -> ExperimentConfig | None:
  """Takes the next that may fit off the list; None: there is none."""
  while candidates:
    candidate = candidates.pop(0)
    if least_bytes_fn(candidate) <= num_bytes:
      return candidate
  return None


def _meshes(config: ExperimentConfig, num_chips: int) -> Iterator[MeshConfig]:
  """Without `tensor` first, and `fsdp` from 16 on, then wider, then less."""
  num_heads = getattr(config.model, "num_heads", 1)
  sizes = divisors(num_chips)
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
  """Candidates of one mesh, likely the fastest first."""
  num_parts = num_chips // (mesh.tensor * mesh.sequence)
  has_remat = hasattr(config.model, "remat")
  costs = _REMAT if has_remat else {"none": 0}
  choices = itertools.product(costs, range(_MAX_MICROBATCHES.bit_length()))
  for remat, power in sorted(choices, key=lambda it: costs[it[0]] + it[1]):
    num_microbatches = 2**power
    if config.data.batch_size % (num_parts * num_microbatches):
      continue
    model = config.model
    if has_remat:
      model = dataclasses.replace(model, remat=remat)
    yield dataclasses.replace(
      config, model=model, mesh=mesh, num_microbatches=num_microbatches
    )
