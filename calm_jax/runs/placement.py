"""Over how many devices a run must be split to be scored or continued."""

import dataclasses
from collections.abc import Sequence

from calm_jax.config import CHOSEN, ExperimentConfig, MeshConfig
from calm_jax.families import costs
from calm_jax.training.sharding import divisors

_SHARE = 0.8  # of a device's memory; rows and temporaries take the rest


def loading_bytes(config: ExperimentConfig, num_parts: int = 1) -> int:
  """What one device holds while a run is loaded to be read only.

  For a moment parameters are there in float32 and, of a bfloat16 model, rounded
  too. The frozen autoencoder lies whole on every device.

  Args:
    config: of the run.
    num_parts: over which the parameters are split.

  Returns:
    Bytes.
  """
  bytes_each = 6 if config.model.dtype == "bfloat16" else 4
  size = lambda model: sum(costs.num_parameters(model).values())
  num_whole = 0 if config.autoencoder is None else size(config.autoencoder)
  return bytes_each * (-(-size(config.model) // num_parts) + num_whole)


def mesh_for(
  configs: Sequence[ExperimentConfig],
  num_devices: int,
  memory_bytes: int | None,
  given: MeshConfig | None = None,
) -> MeshConfig:
  """Parameters over no more devices than they need, rows over what is left.

  Args:
    configs: of the runs that are there at once.
    num_devices: of all processes.
    memory_bytes: of one device; None: not known, so nothing is split.
    given: sizes that stay as they are.

  Returns:
    Sizes for `make_mesh`; split over all devices if nothing less fits.
  """
  given = given or MeshConfig()
  is_open = given.data == CHOSEN and given.fsdp == CHOSEN
  if memory_bytes is None or not is_open:
    return given
  tensor = max(given.tensor, 1)
  rest = num_devices // tensor
  fsdp = 1
  for fsdp in divisors(rest):
    needed = sum(loading_bytes(config, fsdp * tensor) for config in configs)
    if needed <= _SHARE * memory_bytes:
      break
  return dataclasses.replace(given, fsdp=fsdp)
