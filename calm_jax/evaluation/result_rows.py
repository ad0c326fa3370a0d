"""A file of results, one line a step, that survives its writer."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from etils import epath

from calm_jax import json_files, paths


class ResultRows:
  """Lines of JSON, each a result with its `step`; every step once.

  Attributes:
    rows: what the file has, in its order.
    steps: those of the rows.
  """

  def __init__(self, path: epath.PathLike):
    """Opens a file, new or of an earlier process.

    A last line that was cut short, because its writer was killed, is dropped.

    Args:
      path: the file.

    Raises:
      OSError: if it cannot be read or written.
      ValueError: if it holds something else.
    """
    self._path = paths.absolute(path)
    self.rows: list[dict[str, Any]] = []
    if self._path.exists():
      self.rows = self._read()
      json_files.write_rows(self._path, self.rows)
    self.steps = {row["step"] for row in self.rows}

  def append(self, result: dict[str, Any]) -> None:
    """Adds a row, measured as the others were.

    Raises:
      OSError: if it cannot be written.
      ValueError: as `check` does.
    """
    self.check(result)
    json_files.append_row(self._path, result)
    self.rows.append(result)
    self.steps.add(result["step"])

  def check(self, expected: Mapping[str, Any]) -> None:
    """Refuses what would not stand in one table with the rows that are there.

    Args:
      expected: a result, or what of its settings, seed and hashes is known
        before anything is scored.

    Raises:
      ValueError: if a row was measured otherwise, or on other data.
    """
    wanted = _facts(json.loads(json.dumps(dict(expected))))
    for row in self.rows:
      there = _facts(row)
      for name, value in wanted.items():
        if there.get(name) != value:
          self.refuse(f"{name} {there.get(name)!r}, and now it is {value!r}")

  def refuse(self, what: str) -> NoReturn:
    """Raises ValueError: the file holds rows with that."""
    raise ValueError(
      f"--output={self._path} holds rows with {what}; give another file, or"
      " the same flags."
    )

  def _read(self) -> list[dict[str, Any]]:
    try:
      rows = json_files.read_rows(self._path)
      if all(
        isinstance(row.get("settings"), dict)
        and isinstance(row.get("hashes", {}), dict)
        for row in rows
      ):
        return rows
    except ValueError:
      pass
    raise ValueError(
      f"--output={self._path} exists and does not hold results by step; give"
      " another file."
    )


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
  """What all rows of a file have in common, by name."""
  facts = {**row.get("settings", {})}
  facts.pop("data", None)  # a path; the hash of what is there counts
  hashes = row.get("hashes", {})
  facts |= {f"hashes.{name}": str(it)[:12] for name, it in hashes.items()}
  return facts | {name: row[name] for name in ("kind", "seed") if name in row}
