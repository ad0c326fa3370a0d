"""A directory that appears whole or not at all."""

import contextlib
import errno
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

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
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    sibling = pathlib.Path(
      tempfile.mkdtemp(prefix=f".{target.name}.unfinished-", dir=target.parent)
    )
  except OSError as error:
    raise _cannot_write(target, error) from error
  try:
    yield sibling
    sibling.chmod(0o777 & ~_umask())
    if target.exists():
      target.rmdir()
    sibling.rename(target)
  except BaseException as error:
    shutil.rmtree(sibling, ignore_errors=True)
    if isinstance(error, OSError) and error.errno in _FULL:
      raise _cannot_write(target, error) from error
    if isinstance(error, OSError) and str(sibling) in str(error):
      raise OSError(str(error).replace(str(sibling), str(target))) from error
    raise


def _cannot_write(target: pathlib.Path, error: OSError) -> OSError:
  return OSError(
    f"the target {target} cannot be written ({error.strerror}); give another"
    " --target."
  )


def _umask() -> int:
  """What a plain mkdir would have left out."""
  with tempfile.TemporaryDirectory() as directory:
    probe = pathlib.Path(directory) / "probe"
    probe.mkdir()
    return 0o777 & ~probe.stat().st_mode
