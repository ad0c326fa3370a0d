"""TensorBoard's files, as rows at steps."""

import os
import socket
import time
from collections.abc import Mapping

import tensorboardX
from etils import epath
from tensorboardX.proto import event_pb2, summary_pb2

_PREFIX = "events.out.tfevents"
_SECONDS_BETWEEN = 60.0  # how often rows are put where others see them


class EventFile:
  """One more file of a TensorBoard directory.

  It is written here and now. tensorboardX's own writer hands rows to a thread,
  and nobody can tell when they are on the disk: rows of before a checkpoint
  would be lost with a killed process.
  """

  def __init__(self, directory: epath.PathLike, *, start_step: int):
    """Starts a file.

    Args:
      directory: may not exist yet, and may hold the files of earlier starts.
      start_step: steps done; TensorBoard hides what those files have of later
        ones.

    Raises:
      OSError: if it cannot be written.
    """
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    # TensorBoard reads files in the order of their names, and a second start
    # within a second, or with a clock that is behind, must come behind.
    seconds = max([int(time.time()), *(t + 1 for t in _times(directory))])
    name = f"{_PREFIX}.{seconds:010d}.{socket.gethostname()}"
    self._file = tensorboardX.RecordWriter(os.fspath(directory / name))
    self._flushed = time.monotonic()
    self._write(file_version="brain.Event:2")
    # What has this step or a later one is hidden.
    session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(step=start_step + 1, session_log=session)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes finite numbers by name."""
    summary = summary_pb2.Summary(
      value=[
        summary_pb2.Summary.Value(tag=name, simple_value=value)
        for name, value in values.items()
      ]
    )
    self._write(step=step, summary=summary)
    if time.monotonic() - self._flushed >= _SECONDS_BETWEEN:
      self.flush()

  def flush(self) -> None:
    """Puts the rows where they outlive this process."""
    self._flushed = time.monotonic()
    self._file.flush()

  def close(self) -> None:
    self.flush()
    self._file.close()

  def _write(self, **fields: object) -> None:
    event = event_pb2.Event(wall_time=time.time(), **fields)
    self._file.write(event.SerializeToString())


def _times(directory: epath.Path) -> list[int]:
  """The seconds in the names of the files that are there."""
  names = [path.name for path in directory.iterdir()]
  words = [
    name.removeprefix(f"{_PREFIX}.").partition(".")[0]
    for name in names
    if name.startswith(f"{_PREFIX}.")
  ]
  return [int(word) for word in words if word.isdecimal() and len(word) == 10]
