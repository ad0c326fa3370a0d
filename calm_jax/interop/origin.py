"""What a converted run remembers of the checkpoint it came from."""

import dataclasses
from typing import Any

from etils import epath

from calm_jax import json_files

_FILE = "origin.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
  """Enough to write the published files again, bit for bit."""

  config: dict[str, Any]  # of the checkpoint
  autoencoder_config: dict[str, Any] | None  # found at its `ae_path`
  dtypes: dict[str, str]  # of every tensor, such as BF16


def write_origin(run: epath.Path, origin: Origin) -> None:
  """Writes it into a run directory."""
  content = {"format_version": FORMAT_VERSION, **dataclasses.asdict(origin)}
  json_files.write_json(run / _FILE, content)


def read_origin(run: epath.Path) -> Origin | None:
  """Reads it from a run directory; None in a run that was trained here.

  Raises:
    ValueError: if the file is damaged or of another version.
  """
  path = run / _FILE
  if not path.exists():
    return None
  try:
    content = json_files.read_json(path)
    version = content.pop("format_version")
    if version == FORMAT_VERSION:
      return Origin(**content)
  except (ValueError, KeyError, TypeError, AttributeError):
    raise ValueError(
      f"{path} is damaged; convert the published checkpoint again."
    ) from None
  raise ValueError(
    f"{path} has format_version {version!r}; this version of calm_jax reads"
    f" {FORMAT_VERSION}."
  )
