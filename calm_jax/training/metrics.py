"""The files that the numbers of training are written to."""

import json
import math
from collections.abc import Mapping

import tensorboardX
from etils import epath

from calm_jax import paths


class MetricsWriter:
  """Appends rows to metrics.jsonl and to TensorBoard's files."""

  def __init__(
    self, directory: epath.PathLike, *, start_step: int, is_active: bool
  ):
    """Opens the files of a run that starts or goes on.

    Args:
      directory: of the run.
      start_step: steps done. Rows of later steps come from an interrupted
        attempt; they are dropped, because they will be written again.
      is_active: False on all processes but one: they write nothing.
    """
    self._rows = None
    if is_active:
      directory = epath.Path(directory)
      self._rows = directory / "metrics.jsonl"
      _drop_rows_after(self._rows, start_step)
      self._board = tensorboardX.SummaryWriter(
        str(directory / "tensorboard"), purge_step=start_step
      )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row: numbers by name, after `step` steps."""
    if self._rows is None:
      return
    row = {"step": step}
    for name, value in values.items():
      row[name] = value if math.isfinite(value) else None
      self._board.add_scalar(name, value, step)
    paths.append(self._rows, json.dumps(row, allow_nan=False) + "\n")

  def close(self) -> None:
    if self._rows is not None:
      self._board.close()


def read_rows(path: epath.PathLike) -> list[dict[str, float]]:
  """Reads metrics.jsonl; a half-written last line is left out."""
  rows = []
  for line in epath.Path(path).read_text().splitlines():
    try:
      rows.append(json.loads(line))
    except ValueError:
      continue  # the process was killed while it wrote this line
  return rows


def _drop_rows_after(path: epath.Path, step: int) -> None:
  if not path.exists():
    return
  kept = [row for row in read_rows(path) if row["step"] <= step]
  unfinished = path.parent / f"{path.name}.unfinished"
  unfinished.write_text("".join(json.dumps(row) + "\n" for row in kept))
  unfinished.replace(path)
