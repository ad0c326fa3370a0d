"""Flags of what is computed on all devices: --mesh.data, --mesh.fsdp, …

By default every device has all parameters and works on rows of its own. A model
too large for that is split by --mesh.fsdp or --mesh.tensor, as in training.
"""

import jax
from jax.sharding import Mesh
from ml_collections import config_flags

from calm_jax.config import MeshConfig
from calm_jax.config_file import check_types
from calm_jax.training import sharding

_MESH = config_flags.DEFINE_config_dataclass(
  "mesh",
  MeshConfig(),
  "How rows and parameters are split over devices: --mesh.tensor=4, say, and"
  " likewise --mesh.data and --mesh.fsdp.",
)


def chosen() -> Mesh | None:
  """The mesh of all devices; None for a single one.

  Raises:
    ValueError: if it does not fit them, or splits the chunks of a row.
  """
  config = check_types(_MESH.value)
  if config.sequence != 1:
    raise ValueError(
      f"mesh.sequence is {config.sequence}; it splits the rows of training"
      " alone, so leave it at 1 here."
    )
  if len(jax.devices()) == 1 and config == MeshConfig():
    return None
  return sharding.make_mesh(config)
