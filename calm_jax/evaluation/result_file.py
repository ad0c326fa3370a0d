"""Result files, and the refusal of impossible ones before the work."""

import json
from typing import Any

from etils import epath


def check_output(path: str | None) -> None:
  """Raises ValueError if a file cannot be written there."""
  if path is None:
    return
  target = epath.Path(path).expanduser()
  if target.is_dir() or not target.parent.is_dir():
    raise ValueError(
      f"--output={path} cannot be written: it names a directory, or one that"
      " does not exist; give a file in an existing directory."
    )


def write_result(path: str, result: dict[str, Any]) -> None:
  """Writes a result as JSON."""
  text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
  epath.Path(path).expanduser().write_text(text + "\n")
