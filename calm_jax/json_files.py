"""Files of JSON: one object, or rows, an object a line with its step."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from etils import epath

from calm_jax import paths


def read_json(path: epath.PathLike) -> dict[str, Any]:
  """Reads an object whose numbers are all finite.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if it is something else, in one line with the path.
  """
  return _parse(epath.Path(path).read_bytes(), str(path))


def write_json(path: epath.PathLike, values: Mapping[str, Any]) -> None:
  """Writes an object, all of it or nothing.

  Raises:
    OSError: if it cannot be written.
    ValueError: if a number is not finite.
  """
  text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
  paths.write_whole(path, text + "\n")


def read_rows(
  path: epath.PathLike, *, warn_fn: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
  """Reads what `append_row` wrote.

  A last line without its end is left out: it is being written, or the process
  was killed while it wrote.

  Args:
    path: the file.
    warn_fn: takes a sentence about each line that holds something else, which
      is then left out; None: such a line is an error.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if a line holds something else, naming it.
  """
  *lines, _ = epath.Path(path).read_bytes().split(b"\n")
  rows = []
  for i, line in enumerate(lines):
    try:
      rows.append(_parse_row(line, f"{path} line {i + 1}"))
    except ValueError as error:
      if warn_fn is None:
        raise
      warn_fn(str(error))
  return rows


def append_row(path: epath.PathLike, row: Mapping[str, Any]) -> None:
  """Adds a row to a file, which may not exist yet.

  Raises:
    OSError: if it cannot be written.
    ValueError: if a number is not finite.
  """
  paths.append(epath.Path(path), line(row))


def write_rows(path: epath.PathLike, rows: Iterable[Mapping[str, Any]]) -> None:
  """Writes a file of these rows, all of it or nothing."""
  paths.write_whole(path, "".join(map(line, rows)))


def line(row: Mapping[str, Any]) -> str:
  """A row as it stands in a file."""
  return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _parse_row(line: bytes, place: str) -> dict[str, Any]:
  row = _parse(line, place)
  if not isinstance(row.get("step"), int):
    raise ValueError(f"{place} has no step; a training step is expected.")
  return row


def _parse(text: bytes, place: str) -> dict[str, Any]:
  def refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")

  def finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else refuse(digits)

  try:
    values = json.loads(text, parse_constant=refuse, parse_float=finite)
  except ValueError as error:
    raise ValueError(
      f"{place} is damaged: {error}; a JSON object of finite numbers is"
      " expected."
    ) from None
  if not isinstance(values, dict):
    raise ValueError(
      f"{place} is damaged: it is no JSON object; an object is expected, not"
      f" {type(values).__name__}."
    )
  return values
