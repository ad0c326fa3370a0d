"""The one way every binary starts: a mistake ends in one line and exit 1."""

import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

_DEBUG = flags.DEFINE_bool(
  "debug", False, "Print the full traceback of an error."
)


def run(main: Callable[[list[str]], None]) -> None:
  """Parses the flags, calls `main` and turns a user's mistake into one line.

  ValueError and OSError are what this project raises for bad input, so they
  are printed without a traceback; anything else is a defect and keeps its.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  logging.set_verbosity(logging.WARNING)
  try:
    app.run(_guarded(main), flags_parser=_parse_flags)
  except KeyboardInterrupt:
    _fail("interrupted.", code=130)


def _parse_flags(arguments: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(arguments)
  except flags.Error as error:
    _fail(str(error))
  except (KeyError, ValueError, OSError, TypeError) as error:
    _fail(_first_words(error))
  if len(rest) > 1:
    _fail(
      f"unexpected argument {rest[1]!r}; flags are written --name=value,"
      " and --help lists them."
    )
  return rest


def _guarded(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
  def call(arguments: list[str]) -> None:
    try:
      main(arguments)
    except (ValueError, OSError) as error:
      if _DEBUG.value:
        raise
      _fail(_first_words(error))

  return call


def _first_words(error: Exception) -> str:
  """The message on one line; a KeyError would show it in quotes."""
  text = str(error.args[0]) if isinstance(error, KeyError) else str(error)
  return " ".join(text.split())[:2000] or type(error).__name__


def _fail(message: str, code: int = 1) -> None:
  print(f"error: {message}", file=sys.stderr, flush=True)
  sys.exit(code)
