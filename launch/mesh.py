"""Flags of what is computed on all devices: --mesh.data, --mesh.fsdp, …

By default every device has all parameters and works on rows of its own; a model
too large for that is split over as few of them as hold it. --mesh.fsdp and
--mesh.tensor split it as in training; what is not given is chosen.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

from ml_collections import config_flags

from calm_jax.config import CHOSEN, MeshConfig
from calm_jax.config_file import check_types

if TYPE_CHECKING:
  from jax.sharding import Mesh

_MESH = config_flags.DEFINE_config_dataclass(
  "mesh",
  MeshConfig(),
  "How rows and parameters are split over devices: --mesh.tensor=4, say, and"
  " likewise --mesh.data and --mesh.fsdp.",
)


def chosen(*checkpoints: str) -> Mesh | None:
  """The mesh of all devices, on which all runs fit; None for a single device.

  Args:
    *checkpoints: run directories; one that is not there yet is taken to fit.

  Raises:
    ValueError: if it is no run, if the flags' mesh does not fit the devices, or
      splits the chunks of a row.
  """
  import jax  # see entry: --help is there at once

  from calm_jax.checkpoint.run_directory import RunDirectory
  from calm_jax.runs.placement import mesh_for
  from calm_jax.training import processes, sharding
  from calm_jax.training.memory import device_bytes

  config = check_types(_MESH.value)
  if config.sequence not in (CHOSEN, 1):
    raise ValueError(
      f"mesh.sequence is {config.sequence}; it splits the rows of training"
      " alone, so leave it at 1 here."
    )
  num_devices = len(jax.devices())
  if num_devices == 1 and config == MeshConfig():
    return None
  if config.fsdp == CHOSEN:
    runs = [RunDirectory(path) for path in checkpoints]
    configs = [run.read_config() for run in runs if run.exists()]
    memory, given = device_bytes(), config
    fsdp_fn = lambda: mesh_for(configs, num_devices, memory, given).fsdp
    # A run may be there for one process already, and not for another yet.
    fsdp = processes.first_finds(fsdp_fn)
    config = dataclasses.replace(given, fsdp=fsdp)
    if config.fsdp > 1 and jax.process_index() == 0:
      print(
        f"parameters are split over {config.fsdp} devices (--mesh.fsdp)",
        file=sys.stderr,
      )
  return sharding.make_mesh(config)
