"""Result files, and the refusal of impossible ones before the work."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from calm_jax import json_files, paths


def check_output(path: str | None, flag: str = "output") -> None:
  """Raises ValueError or OSError if a file cannot be written there."""
  if path is None:
    return
  target = paths.expanded(path)
  if target.is_dir() or not target.parent.is_dir():
    raise ValueError(
      f"--{flag}={path} cannot be written: it names a directory, or one that"
      " does not exist; give a file in an existing directory."
    )
  with _named(target, flag):
    paths.check_writable(target)


def write_result(path: str, result: dict[str, Any]) -> None:
  """Writes a result as JSON, all of it or nothing."""
  target = paths.expanded(path)
  with _named(target):
    json_files.write_json(target, result)


def writer(path: str | None) -> Callable[[dict[str, Any]], None] | None:
  """`write_result` to this path; None if no file was asked for."""
  return functools.partial(write_result, path) if path else None


def read_result(path: epath.PathLike) -> dict[str, Any]:
  """Reads what `write_result` wrote.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is no JSON object of finite numbers.
  """
  try:
    return json_files.read_json(paths.expanded(path))
  except ValueError as error:
    raise ValueError(f"{error} Remove it and score again.") from None


@contextlib.contextmanager
def _named(target: epath.Path, flag: str = "output") -> Iterator[None]:
  """Says of an error of the disk which flag it is about."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f"--{flag}={target} cannot be written ({error.strerror or error}); give a"
      " file elsewhere."
    ) from error
