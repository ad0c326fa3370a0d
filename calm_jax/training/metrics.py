"""The files that the numbers of training are written to."""

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from calm_jax import json_files, paths
from calm_jax.training.event_file import EventFile


class MetricsWriter:
  """Appends rows to metrics.jsonl and to TensorBoard's files.

  Both keep the same rows, however often a run is restarted.
  """

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
    self._start_step = start_step
    self._directory = directory = epath.Path(directory)
    if is_active:
      with self._guarded():
        kept = _drop_rows_after(directory / "metrics.jsonl", start_step)
        self._board = EventFile(
          directory / "tensorboard", start_step=start_step
        )
      # A run that was stopped evaluates its step when it goes on, and does so
      # again if it is killed before it saves another one.
      self._written = [{*row} for row in kept if row["step"] == start_step]
      self._rows = paths.GrowingFile(directory / "metrics.jsonl")

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row: numbers by name, after `step` steps."""
    if self._rows is None:
      return
    if step == self._start_step and {"step", *values} in self._written:
      return
    # TensorBoard would warn of others, and show nothing.
    finite = {name: it for name, it in values.items() if math.isfinite(it)}
    row = {"step": step} | {name: finite.get(name) for name in values}
    with self._guarded():
      self._board.write(step, finite)
      self._rows.append(json_files.line(row))
    if step == self._start_step:
      self.flush()  # no save of this process comes behind it

  def flush(self) -> None:
    """Puts the rows where they outlive this process."""
    if self._rows is not None:
      with self._guarded():
        self._board.flush()
        self._rows.flush()

  def close(self) -> None:
    if self._rows is not None:
      with self._guarded():
        self._board.close()
        self._rows.flush()

  @contextlib.contextmanager
  def _guarded(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      raise OSError(
        f"cannot write metrics.jsonl and tensorboard/ of {self._directory}"
        f" ({error.strerror or error}); the steps saved before are intact. Make"
        " room, and start the same command again."
      ) from error


def _drop_rows_after(path: epath.Path, step: int) -> list[dict[str, Any]]:
  """Rewrites the file and returns the rows that stay."""
  if not path.exists():
    return []
  # A torn log is no reason to refuse a sound checkpoint.
  rows = json_files.read_rows(path, warn_fn=_warn_of_loss)
  rows = [row for row in rows if row["step"] <= step]
  json_files.write_rows(path, rows)
  return rows


def _warn_of_loss(text: str) -> None:
  print(
    f"warning: {text} What is damaged is left out.",
    file=sys.stderr,
    flush=True,
  )
