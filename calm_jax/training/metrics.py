"""The files that the numbers of training are written to."""

import math
import sys
from collections.abc import Mapping

import tensorboardX
from etils import epath

from calm_jax import json_files, paths


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

    Raises:
      OSError: if a file cannot be read or written.
    """
    self._rows = None
    if is_active:
      directory = epath.Path(directory)
      _drop_rows_after(directory / "metrics.jsonl", start_step)
      self._rows = paths.GrowingFile(directory / "metrics.jsonl")
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
      if math.isfinite(value):  # TensorBoard would warn, and show nothing
        self._board.add_scalar(name, value, step)
    self._rows.append(json_files.line(row))

  def flush(self) -> None:
    """Puts the rows where they outlive this process."""
    if self._rows is not None:
      self._rows.flush()

  def close(self) -> None:
    if self._rows is not None:
      self._board.close()
      self._rows.flush()


def _drop_rows_after(path: epath.Path, step: int) -> None:
  if not path.exists():
    return
  # A torn log is no reason to refuse a sound checkpoint.
  rows = json_files.read_rows(path, warn_fn=_warn_of_loss)
  json_files.write_rows(path, (row for row in rows if row["step"] <= step))


def _warn_of_loss(text: str) -> None:
  print(f"warning: {text} The line is left out.", file=sys.stderr, flush=True)
