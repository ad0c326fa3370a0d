"""A file of results, one line a step, that survives its writer."""

import json
from typing import Any

from etils import epath

from calm_jax import json_files, paths


class ResultRows:
  """Lines of JSON, each a result with its `step`; every step once.

  Attributes:
    steps: those the file has.
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
    self._rows: list[dict[str, Any]] = []
    if self._path.exists():
      self._rows = self._read()
      json_files.write_rows(self._path, self._rows)
    self.steps = {row["step"] for row in self._rows}

  def append(self, result: dict[str, Any]) -> None:
    """Adds a row, measured as the others were.

    Raises:
      OSError: if it cannot be written.
      ValueError: if its settings are not those of the rows before it.
    """
    self._check_settings(json.loads(json.dumps(result["settings"])))
    json_files.append_row(self._path, result)
    self._rows.append(result)
    self.steps.add(result["step"])

  def _read(self) -> list[dict[str, Any]]:
    try:
      rows = json_files.read_rows(self._path)
      if all("settings" in row for row in rows):
        return rows
    except ValueError:
      pass
    raise ValueError(
      f"--output={self._path} exists and does not hold results by step; give"
      " another file."
    )

  def _check_settings(self, settings: dict[str, Any]) -> None:
    there = self._rows[0]["settings"] if self._rows else settings
    for name in {*there, *settings}:
      if there.get(name) != settings.get(name):
        raise ValueError(
          f"--output={self._path} holds rows with {name} {there.get(name)!r},"
          f" and now it is {settings.get(name)!r}; give another file, or the"
          " same flags."
        )
