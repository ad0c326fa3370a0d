"""What differs between paths on a disk and in a bucket, as gs://bucket/run."""

import os

import fsspec
from etils import epath

# A bucket's directory is listed once and remembered: what another process
# saves there later would never be seen.
fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False


def absolute(path: epath.PathLike) -> epath.Path:
  """The path from the root of the disk, or of a bucket.

  Raises:
    ValueError: if it is in a bucket and the package that reads it is missing.
  """
  protocol, separator, _ = os.fspath(path).partition("://")
  if not separator:
    return epath.Path(path).expanduser().resolve()
  try:
    fsspec.get_filesystem_class(protocol)
  except (ImportError, ValueError) as error:
    raise ValueError(f"{path} cannot be opened: {error}.") from None
  return epath.Path(path)


def append(path: epath.Path, text: str) -> None:
  """Adds text to the end of a file, which may not exist yet.

  Nothing can be added to a file in a bucket, so that is written as a whole.
  """
  if "://" in os.fspath(path):
    there = path.read_text() if path.exists() else ""
    path.write_text(there + text)
  else:
    with path.open("a") as file:
      file.write(text)
