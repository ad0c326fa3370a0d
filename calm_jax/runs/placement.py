"""Over how many devices a run must be split to be scored or continued."""

from collections.abc import Sequence

from calm_jax.config import ExperimentConfig, MeshConfig
from calm_jax.families import costs

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
) -> MeshConfig:
  """Parameters over no more devices than they need, rows over what is left.

  Args:
    configs: of the runs that are there at once.
    num_devices: of all processes.
    memory_bytes: of one device; None: not known, so nothing is split.

  Returns:
    The mesh; split over all devices if nothing less fits.
  """
  if memory_bytes is None:
    return MeshConfig()
  parts = [n for n in range(1, num_devices + 1) if num_devices % n == 0]
  for fsdp in parts:
    needed = sum(loading_bytes(config, fsdp) for config in configs)
    if needed <= _SHARE * memory_bytes:
      break
  return MeshConfig(fsdp=fsdp)
