"""Files of JSON: one object, or rows, an object a line with its step."""

import json
import math
import sys
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
  return _parse_object(epath.Path(path).read_bytes(), str(path))


def write_json(path: epath.PathLike, values: Mapping[str, Any]) -> None:
  """Writes an object, all of it or nothing.

  Raises:
    OSError: if it cannot be written.
    ValueError: if a number is not finite.
  """
  paths.write_whole(path, _format(values, indent=2))


def read_rows(
  path: epath.PathLike, *, warn_fn: Callable[[str], None] | None = None
) -> list[dict[str, Any]]:
  """Reads what `append_row` wrote.

  A last line without its end is left out: it is being written, or the process
  was killed while it wrote.

  Args:
    path: the file.
    warn_fn: takes one sentence about all lines that hold something else, which
      are then left out; None: such a line is an error.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if a line holds something else, naming it.
  """
  *lines, _ = epath.Path(path).read_bytes().split(b"\n")
  rows, problems = [], []
  for i, line in enumerate(lines):
    try:
      rows.append(_parse_row(line, f"{path} line {i + 1}"))
    except ValueError as error:
      if warn_fn is None:
        raise
      problems.append(str(error))
  if problems and warn_fn is not None:
    more = len(problems) - 1
    warn_fn(problems[0] + f" So are {more} lines behind it." * bool(more))
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
  return _format(row)


def parse(
  text: str,
  *,
  is_finite: bool = True,
  object_fn: Callable[[list[tuple[str, Any]]], Any] = dict,
) -> Any:
  """Reads one value of JSON.

  Args:
    text: a value and white space.
    is_finite: refuses numbers that are none, or too large to be one.
    object_fn: takes the names and values of an object, as they stand.

  Returns:
    What `json.loads` gives.

  Raises:
    ValueError: if it is something else; what it is in a few words, which the
      caller puts behind the place.
  """

  def refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")

  def finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else refuse(digits)

  hooks = {"parse_constant": refuse, "parse_float": finite} if is_finite else {}
  try:
    return json.loads(text, object_pairs_hook=object_fn, **hooks)
  except json.JSONDecodeError as error:
    if text.startswith("\ufeff"):
      raise ValueError("it begins with a byte-order mark") from None
    where = f"line {error.lineno} " * ("\n" in text.strip())
    what = error.msg.removesuffix(" at")
    raise ValueError(f"{what} at {where}column {error.colno}") from None
  except RecursionError:
    raise ValueError("it is nested too deeply") from None
  except ValueError as error:
    if "integer string conversion" not in str(error):
      raise
    # Python's own limit, against slow conversions.
    most = sys.get_int_max_str_digits()
    raise ValueError(f"it holds a number of more than {most} digits") from None


def _format(values: Mapping[str, Any], indent: int | None = None) -> str:
  text = json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)
  # The name of a file may hold bytes that are no UTF-8, which Python keeps as
  # lone surrogates. They have no UTF-8 form, but an escape in JSON.
  return text.encode(errors="backslashreplace").decode() + "\n"


def _parse_row(line: bytes, place: str) -> dict[str, Any]:
  row = _parse_object(line, place)
  if type(row.get("step")) is not int:
    raise ValueError(f"{place} has no step; a training step is expected.")
  return row


def _parse_object(data: bytes, place: str) -> dict[str, Any]:
  try:
    values = parse(data.decode().removeprefix("\ufeff"))
  except UnicodeDecodeError as error:
    byte = f"byte 0x{data[error.start]:02X} at {error.start}"
    raise _damaged(place, f"{byte} is not UTF-8") from None
  except ValueError as error:
    raise _damaged(place, str(error)) from None
  if not isinstance(values, dict):
    raise ValueError(
      f"{place} is damaged: it is no JSON object; an object is expected, not"
      f" {type(values).__name__}."
    )
  return values


def _damaged(place: str, reason: str) -> ValueError:
  return ValueError(
    f"{place} is damaged: {reason}; a JSON object of finite numbers is"
    " expected."
  )
