"""Where a number comes from, for every result file."""

import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

import calm_jax
from calm_jax import config_file
from calm_jax.checkpoint.run_directory import LoadedRun

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance(
  run: LoadedRun, *, data_hash: str | None, seed: int
) -> dict[str, Any]:
  """All that is needed to get the same numbers again.

  Args:
    run: what was measured.
    data_hash: content hash of the data it was measured on; None: no data.
    seed: of all draws.

  Returns:
    `commit` (None outside a git checkout; ends in "-dirty" with local changes),
    `config`, `step`, hashes, `versions`, `device` and `seed`.
  """
  return {
    "checkpoint": str(run.path),
    "step": run.step,
    "commit": commit(),
    "config": config_file.to_dict(run.config),
    "hashes": {
      **{f"training_{name}": it for name, it in run.hashes.items()},
      "tokenizer": run.tokenizer.content_hash,
      "data": data_hash,
    },
    "versions": versions(),
    "device": device(),
    "seed": seed,
  }


def commit() -> str | None:
  """The checkout's commit, or None where the package is not in one."""
  root = pathlib.Path(calm_jax.__file__).parent.parent
  if not (root / ".git").exists():
    return None
  try:
    found = subprocess.run(
      ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
      cwd=root,
      capture_output=True,
      text=True,
      timeout=20,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return found.stdout.strip()


def versions() -> dict[str, str]:
  """Of this package, Python and the libraries that compute."""
  return {
    "calm_jax": calm_jax.__version__,
    "python": platform.python_version(),
    **{name: importlib.metadata.version(name) for name in _PACKAGES},
  }


def device() -> str:
  """How many of which device."""
  devices = jax.devices()
  return f"{len(devices)} × {devices[0].device_kind} ({devices[0].platform})"
