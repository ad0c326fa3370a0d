"""How a run lies on devices: its mesh, and the microbatches of a step.

What the config gives is taken as it is, and the rest is chosen here, by the one
rule that training and planning share.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from calm_jax.config import CHOSEN, ExperimentConfig, MeshConfig
from calm_jax.training.memory import StepMemory
from calm_jax.training.sharding import divisors

# Split in more parts than this, the parameters' last axis gets so narrow that
# the compiler gathers by sums of padded arrays, at twice the traffic.
_MAX_FSDP = 16

_SHARE = 0.9  # of a device's memory that a step may be expected to take


class Layout(NamedTuple):
  """A config with every size filled in, and what a device then holds."""

  config: ExperimentConfig
  num_devices: int
  expected_bytes: float | None = None  # of a device; None: not known
  memory_bytes: int | None = None  # likewise, what there is

  @property
  def fits(self) -> bool:
    """Whether it is expected to; True where nothing is known."""
    return _fits(self.expected_bytes, self.memory_bytes)

  def __str__(self) -> str:
    config, mesh = self.config, self.config.mesh
    rows = config.data.batch_size // config.num_microbatches
    sizes = " × ".join(f"{axis} {size}" for axis, size in vars(mesh).items())
    text = (
      f"devices {self.num_devices}, mesh {sizes}, microbatches"
      f" {config.num_microbatches} of {rows} rows"
    )
    if self.expected_bytes is None:
      return text
    expected, memory = (
      f"{size / 2**30:.1f}" for size in (self.expected_bytes, self.memory_bytes)
    )
    doubt = "" if self.fits else ", which may be too much"
    return f"{text}, about {expected} of {memory} GiB a device{doubt}"


def choose_layout(
  config: ExperimentConfig,
  num_devices: int,
  memory_bytes: int | None,
  num_slices: int = 1,
) -> Layout:
  """Fills in the sizes that a config leaves open.

  As many rows as there are lie side by side; `tensor`, and where the heads do
  not suffice `sequence`, take the devices left over. Parameters are split over
  as few devices as hold a step, up to 16; where that is not enough, the batch
  is cut into as few microbatches as fit, and then parameters are split further.

  Args:
    config: resolved.
    num_devices: of all processes.
    memory_bytes: of one device; None: not known, so nothing is split for it.
    num_slices: of TPUs, over which `data` alone goes.

  Returns:
    The layout; where nothing fits into the memory the most frugal one. Where
    the config goes with no mesh of these devices it is left as it is, and
    `make_mesh` or `check_fit` say what is wrong with it.
  """
  candidates = list(_candidates(config, num_devices, num_slices))
  if not candidates:
    return Layout(config, num_devices)
  if memory_bytes is None:
    return Layout(candidates[0], num_devices)
  memory = StepMemory()
  for candidate in candidates:
    expected = memory.expected(candidate)
    if _fits(expected, memory_bytes):
      break
  return Layout(candidate, num_devices, expected, memory_bytes)


def _fits(expected: float | None, memory_bytes: int | None) -> bool:
  return expected is None or expected <= _SHARE * memory_bytes


def _candidates(
  config: ExperimentConfig, num_devices: int, num_slices: int
) -> Iterator[ExperimentConfig]:
  """From the fastest to the most frugal one."""
  meshes = list(_meshes(config, num_devices, num_slices))
  if not meshes:
    return
  # Rows side by side, as far as they go.
  beside = lambda mesh: (mesh.tensor * mesh.sequence, mesh.sequence)
  least = min(map(beside, meshes))
  meshes = [mesh for mesh in meshes if beside(mesh) == least]
  meshes.sort(key=lambda mesh: mesh.fsdp)
  num_narrow = max(1, sum(mesh.fsdp <= _MAX_FSDP for mesh in meshes))
  for i, mesh in enumerate(meshes):
    nums = _nums_microbatches(config, mesh.data * mesh.fsdp)
    # More microbatches only where parameters are split as far as is cheap.
    for num in nums if i + 1 >= num_narrow else nums[:1]:
      yield dataclasses.replace(config, mesh=mesh, num_microbatches=num)


def _meshes(
  config: ExperimentConfig, num_devices: int, num_slices: int
) -> Iterator[MeshConfig]:
  """Those of all devices that the config allows and fits."""
  num_heads = getattr(config.model, "num_heads", 1)
  if config.teacher is not None:
    num_heads = math.gcd(num_heads, config.teacher.num_heads)
  sizes = divisors(num_devices)
  for fsdp, tensor, sequence in itertools.product(sizes, repeat=3):
    data, rest = divmod(num_devices, fsdp * tensor * sequence)
    if rest or data % num_slices:
      continue
    mesh = MeshConfig(data=data, fsdp=fsdp, tensor=tensor, sequence=sequence)
    if any(
      given not in (CHOSEN, getattr(mesh, axis))
      for axis, given in vars(config.mesh).items()
    ):
      continue
    if num_heads % tensor or config.num_chunks % sequence:
      continue
    if _nums_microbatches(config, data * fsdp):
      yield mesh


def _nums_microbatches(
  config: ExperimentConfig, num_row_parts: int
) -> list[int]:
  """Numbers by which the rows of every device divide, fewest first."""
  num_rows, rest = divmod(config.data.batch_size, num_row_parts)
  if rest:
    return []
  given = config.num_microbatches
  return [it for it in divisors(num_rows) if given in (CHOSEN, it)]
