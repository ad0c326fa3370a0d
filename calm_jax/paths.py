"""What differs between paths on a disk and in a bucket, as gs://bucket/run."""

import contextlib
import math
import os
import time
import uuid
from collections.abc import Iterator

import fsspec
from etils import epath

# A bucket's directory is listed once and remembered: what another process
# saves there later would never be seen.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def absolute(path: epath.PathLike) -> epath.Path:
  """The path from the root of the disk, or of a bucket; see `expanded`."""
  if not os.fspath(path):
    raise ValueError("the path of a directory is empty; give one.")
  found = expanded(path)
  return found if is_remote(path) else found.resolve()


def expanded(path: epath.PathLike) -> epath.Path:
  """The path with ~ as the home directory.

  Raises:
    ValueError: if it is an address that cannot be opened, as of a bucket if the
      package that reads it is missing.
  """
  if not is_remote(path):
    return epath.Path(path).expanduser()
  protocol, _, _ = os.fspath(path).partition("://")
  try:
    fsspec.get_filesystem_class(protocol)
    return epath.Path(path)
  except (ImportError, ValueError) as error:
    raise ValueError(f"{path} cannot be opened: {error}.") from None
  except KeyError:
    raise ValueError(
      f"{path} cannot be opened: there is no way to {protocol}://; give a path"
      " on a disk, or in a bucket, as gs://bucket/name."
    ) from None


def is_remote(path: epath.PathLike) -> bool:
  """Whether it is an address such as gs://bucket/name."""
  return "://" in os.fspath(path)


def append(path: epath.Path, text: str) -> None:
  """Adds text to the end of a file, which may not exist yet.

  Nothing can be added to a file in a bucket, so that is written as a whole.
  """
  if is_remote(path):
    there = path.read_text() if path.exists() else ""
    path.write_text(there + text)
  else:
    with path.open("a") as file:
      file.write(text)


class GrowingFile:
  """A text file that is added to, often.

  In a bucket it is kept here and written as a whole now and then: a file that
  is sent again for every line costs the square of its length.
  """

  def __init__(self, path: epath.PathLike, *, seconds_between: float = 60.0):
    """Opens a file, which may not exist yet.

    Args:
      path: nobody else may write to it.
      seconds_between: how often it is sent to a bucket.
    """
    self._path = epath.Path(path)
    self._is_remote = is_remote(path)
    self._seconds_between = seconds_between
    self._sent = -math.inf
    self._unsent: list[str] = []
    self._before = ""
    if self._is_remote and self._path.exists():
      self._before = self._path.read_text()

  def append(self, text: str) -> None:
    """Adds text to the end.

    Raises:
      OSError: if it cannot be written.
    """
    if not self._is_remote:
      append(self._path, text)
      return
    self._unsent.append(text)
    if time.monotonic() - self._sent >= self._seconds_between:
      self.flush()

  def flush(self) -> None:
    """Puts all that was added where others see it."""
    if not self._unsent:
      return
    self._sent = time.monotonic()
    text = "".join([self._before, *self._unsent])
    self._path.write_text(text)
    self._before = text
    self._unsent.clear()


def write_whole(path: epath.PathLike, text: str) -> None:
  """Writes a text file, all of it or nothing."""
  with written_whole(path) as beside:
    beside.write_text(text)


@contextlib.contextmanager
def written_whole(path: epath.PathLike) -> Iterator[epath.Path]:
  """A hidden file beside the path, which takes its place at the end.

  Nobody sees half of a file. A killed process leaves the path as it was, and so
  does an error, which removes the hidden file.

  Args:
    path: new, or of a file.

  Yields:
    The hidden file, to be written.
  """
  path = epath.Path(path)
  beside = _beside(path)
  try:
    yield beside
    beside.replace(path)
  except BaseException:
    # The first error is the one to be told.
    with contextlib.suppress(OSError):
      beside.unlink(missing_ok=True)
    raise


@contextlib.contextmanager
def directory_written_whole(path: epath.PathLike) -> Iterator[epath.Path]:
  """`written_whole` for a directory.

  Args:
    path: new, or of an empty directory.

  Yields:
    A hidden directory beside the path, to be filled.
  """
  path = epath.Path(path)
  beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished"
  new = [parent for parent in path.parents if not parent.exists()]
  try:
    beside.mkdir(parents=True)
    yield beside
    if path.exists():
      if any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty.")
      path.rmdir()
    beside.rename(path)
  except BaseException:
    with contextlib.suppress(OSError):
      beside.rmtree(missing_ok=True)
      for parent in new:  # the innermost first, and only if it is empty
        parent.rmdir()
    raise


def check_writable(path: epath.PathLike) -> None:
  """Raises OSError if `write_whole` cannot write there; changes nothing."""
  beside = _beside(epath.Path(path))
  try:
    beside.write_text("")
  finally:
    beside.unlink(missing_ok=True)


def _beside(path: epath.Path) -> epath.Path:
  return path.parent / f".{path.name}.unfinished"
