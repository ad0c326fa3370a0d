"""Keeps from stderr what Orbax prints of failures that it also raises.

Both the log and the hook drop only what comes of Orbax's own threads, and stay
for the life of the process, because these threads outlive the call that failed.
"""

import functools
import logging
import os
import re
import sys
from typing import Any


@functools.cache
def silence() -> None:
  """Drops Orbax's own tracebacks from now on."""
  logging.getLogger("absl").addFilter(_is_not_orbax_error)
  sys.unraisablehook = functools.partial(_drop_late_reads, sys.unraisablehook)


def reason(error: Exception) -> str:
  """An error of Orbax or TensorStore in a few words on one line."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = " ".join(str(error).split()) or type(error).__name__
  code = re.search(r"os_error_code='(\d+)'", text)
  if code:
    return os.strerror(int(code[1]))
  # What stands behind is the address of a function, not details.
  return text.split(" See full TensorStore details")[0][:200].rstrip(".")


def _is_not_orbax_error(record: logging.LogRecord) -> bool:
  return record.levelno < logging.ERROR or "orbax" not in record.pathname


def _drop_late_reads(hook: Any, event: Any) -> None:
  # When one array cannot be read, Orbax closes its event loop at once. Reads
  # that were under way complain of that, and Orbax turns the GeneratorExit of
  # those that are thrown away into an error of reading.
  error = event.exc_value
  is_late = "Event loop is closed" in str(error)
  cause = getattr(error, "__cause__", None)
  if not is_late and not isinstance(cause, GeneratorExit):
    hook(event)
