"""Does a run fit on a slice, and how fast can it be at best."""

import dataclasses
from typing import Any

from calm_jax.config import ExperimentConfig
from calm_jax.planning.collectives import Collective
from calm_jax.planning.compilation import CompiledStep, compile_step
from calm_jax.planning.topology import (
  Topology,
  available_bytes,
  compiler_versions,
)
from calm_jax.training import sharding

_DAY = 24 * 3600  # seconds

# What the bounds on the time do not count, so that a step takes longer.
LEFT_OUT = {
  "compute": "elementwise work, the energy score's kernel among it, and what"
  " the attention kernel computes twice",
  "memory": "all but the trained state, the weights of products and the kept"
  " activations",
  "network": "latency, and links that stand idle",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """One run on one slice. Times are bounds: a step takes at least these."""

  topology: str
  num_chips: int
  mesh: dict[str, int]
  remat: str
  batch_size: int  # rows
  num_microbatches: int
  parameters: int  # trained; a frozen autoencoder is not among them
  flops_per_step: float  # by the paper's accounting
  executed_flops_per_step: float  # at least, with what is computed again
  bytes_per_chip: int  # as the compiler says, with arguments it does not read
  bytes_by_kind: dict[str, int]
  bytes_available: int
  fits: bool
  compiled: bool  # False: refused for want of memory
  collectives: list[Collective]  # none if refused
  compute_seconds: float
  memory_seconds: float
  network_seconds: float | None  # None if refused
  tokens_per_step: int
  num_steps: int
  notes: list[str]

  @property
  def step_seconds(self) -> float:
    """The largest of the three bounds."""
    return max(self._bounds)

  @property
  def rank(self) -> tuple[float, ...]:
    """Less is better: the largest bound, then the next ones."""
    return tuple(sorted(self._bounds, reverse=True))

  @property
  def _bounds(self) -> list[float]:
    bounds = (self.compute_seconds, self.memory_seconds, self.network_seconds)
    return [bound for bound in bounds if bound is not None]

  @property
  def tokens_per_second(self) -> float:
    return self.tokens_per_step / self.step_seconds

  @property
  def days(self) -> float:
    return self.num_steps * self.step_seconds / _DAY

  @property
  def chip_hours(self) -> float:
    return 24 * self.days * self.num_chips

  def to_dict(self) -> dict[str, Any]:
    """For JSON."""
    values = dataclasses.asdict(self)
    values["collectives"] = [item._asdict() for item in self.collectives]
    for name in ("step_seconds", "tokens_per_second", "days", "chip_hours"):
      values[name] = getattr(self, name)
    return values | {
      "lower_bounds_leave_out": LEFT_OUT,
      "versions": compiler_versions(),
    }


def make_plan(
  config: ExperimentConfig, topology: Topology, *, flops_per_step: float
) -> Plan:
  """Compiles the training step for a slice and reads the result.

  Args:
    config: from `assumptions.complete`, with the mesh to plan for.
    topology: from `find_topology`.
    flops_per_step: by the accounting that is reported.

  Returns:
    The plan.

  Raises:
    ValueError: if the config does not fit the mesh, or the mesh the slice.
    JaxRuntimeError: if the step cannot be compiled for another reason than
      memory.
  """
  mesh = sharding.make_mesh(config.mesh, topology.devices)
  step = compile_step(config, mesh)
  chip, num_devices = topology.chip, len(topology.devices)
  network = None
  if step.is_compiled:
    received = sum(item.received_bytes for item in step.collectives)
    network = received / chip.network_bytes_per_second
  traffic = _memory_traffic(config, step, mesh.shape["tensor"])
  available = available_bytes(topology)
  data = config.data
  return Plan(
    topology=topology.name,
    num_chips=topology.num_chips,
    mesh=dict(mesh.shape),
    remat=getattr(config.model, "remat", "none"),
    batch_size=data.batch_size,
    num_microbatches=config.num_microbatches,
    parameters=step.num_parameters,
    flops_per_step=flops_per_step,
    executed_flops_per_step=step.executed_flops,
    bytes_per_chip=step.total_bytes,
    bytes_by_kind={
      "state": step.state_bytes,
      "activations": step.activation_bytes,
      "temporaries": step.temporary_bytes,
    },
    bytes_available=available,
    fits=step.is_compiled and step.total_bytes <= available,
    compiled=step.is_compiled,
    collectives=step.collectives,
    compute_seconds=step.executed_flops / num_devices / chip.flops_per_second,
    memory_seconds=traffic / chip.memory_bytes_per_second,
    network_seconds=network,
    tokens_per_step=data.batch_size * data.row_length,
    num_steps=config.num_steps,
    notes=[*step.notes, *_device_notes(topology)],
  )


def _device_notes(topology: Topology) -> list[str]:
  if topology.chip.num_devices == 1:
    return []
  return [
    f"JAX shows a chip as {topology.chip.num_devices} devices; mesh and memory"
    f" are those of its {len(topology.devices)} devices."
  ]


def _memory_traffic(
  config: ExperimentConfig, step: CompiledStep, tensor: int
) -> float:
  """Bytes that a chip reads and writes in a step at least.

  The trained state is read and written once; of every microbatch, the kept
  activations are written and read, and the weights are read forward, backward
  and, where whole layers are computed again, once more.
  """
  num_passes = 3 if getattr(config.model, "remat", "none") == "full" else 2
  item = 2 if config.model.dtype == "bfloat16" else 4
  weights = num_passes * item * step.num_multiplied / tensor
  each = weights + 2 * step.activation_bytes
  return 2 * step.trained_state_bytes + config.num_microbatches * each
