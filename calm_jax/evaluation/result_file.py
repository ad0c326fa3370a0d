"""Result files, and the refusal of impossible ones before the work."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from calm_jax import paths


def check_output(path: str | None) -> None:
  """Raises ValueError or OSError if a file cannot be written there."""
  if path is None:
    return
  target = epath.Path(path).expanduser()
  if target.is_dir() or not target.parent.is_dir():
    raise ValueError(
      f"--output={path} cannot be written: it names a directory, or one that"
      " does not exist; give a file in an existing directory."
    )
  with _named(target):
    paths.check_writable(target)


def write_result(path: str, result: dict[str, Any]) -> None:
  """Writes a result as JSON, all of it or nothing."""
  text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
  target = epath.Path(path).expanduser()
  with _named(target):
    paths.write_whole(target, text + "\n")


def read_result(path: epath.PathLike) -> dict[str, Any]:
  """Reads what `write_result` wrote.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is no JSON object of finite numbers.
  """

  def refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")

  try:
    result = json.loads(epath.Path(path).read_text(), parse_constant=refuse)
    if not isinstance(result, dict):
      raise ValueError("it is no JSON object")
  except ValueError as error:
    raise ValueError(
      f"the result {path} is damaged ({error}); remove it and score again."
    ) from None
  return result


@contextlib.contextmanager
def _named(target: epath.Path) -> Iterator[None]:
  """Says of an error of the disk which flag it is about."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f"--output={target} cannot be written ({error.strerror or error}); give a"
      " file elsewhere."
    ) from error
