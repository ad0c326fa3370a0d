"""A directory that appears whole or not at all."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator

from calm_jax import paths

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # a disk, a limit, a quota


def check_free(target: pathlib.Path) -> None:
  """Raises ValueError unless the target is absent or an empty directory."""
  if target.is_dir() and not any(target.iterdir()):
    return
  if target.exists():
    raise ValueError(
      f"the target {target} exists and is not an empty directory; give another"
      " --target, or remove it."
    )


@contextlib.contextmanager
def written_beside(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary sibling that takes the target's place at the end.

  An error, an interrupt included, removes it and leaves the target as it was.

  Args:
    target: absent, or an empty directory.

  Yields:
    The sibling, an empty directory.
  """
  check_free(target)
  target = target.absolute()
  beside = None
  try:
    with paths.directory_written_whole(target) as beside:
      yield pathlib.Path(beside)
  except OSError as error:
    if beside is None or error.errno in _FULL:
      raise _cannot_write(target, error) from error
    if str(beside) in str(error):
      text = str(error).replace(str(beside), str(target))
      raise OSError(text) from error
    raise


def _cannot_write(target: pathlib.Path, error: OSError) -> OSError:
  return OSError(
    f"the target {target} cannot be written ({error.strerror}); give another"
    " --target."
  )
