"""The one way every binary starts: a mistake ends in one line and exit 1.

Binaries import what takes seconds, jax above all, where they use it, inside
their functions: --help and a mistyped flag are answered at once.
"""

import io
import os
import sys
from collections.abc import Callable

from absl import app, flags, logging

from launch import allocator, flag_errors

_DEBUG = flags.DEFINE_bool(
  "debug", False, "Print the full traceback of an error."
)
_COMPILATION_CACHE = flags.DEFINE_string(
  "compilation_cache",
  None,
  "Directory, also in a bucket, that keeps compiled programs for later starts.",
)


def run(main: Callable[[list[str]], None]) -> None:
  """Parses the flags, calls `main` and turns a user's mistake into one line.

  ValueError and OSError are what this project raises for bad input, so they
  are printed without a traceback; so is a lack of memory. Anything else is a
  defect and keeps its own.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  allocator.keep_memory()
  _take_all_characters()
  logging.set_verbosity(logging.WARNING)
  try:
    app.run(_guarded(main), flags_parser=_parse_flags)
  except KeyboardInterrupt:
    _fail("interrupted.", code=130)


def shared_flags() -> list[str]:
  """The flags that all binaries have, for a process that this one starts."""
  cache = _COMPILATION_CACHE.value
  return [
    f"--debug={_DEBUG.value}",
    *([] if cache is None else [f"--compilation_cache={cache}"]),
  ]


def _take_all_characters() -> None:
  """Lets stdout be anything: ASCII shows the rest as escapes, closed nothing.

  Text of a model may hold every character, and none of them is a reason to
  lose the others. stderr is so from the start.
  """
  if sys.stdout is None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, until the process ends
  if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")


def _parse_flags(arguments: list[str]) -> list[str]:
  _list_shared_flags(arguments[0])
  try:
    rest = flags.FLAGS(arguments)
  except SystemExit:  # --help, for which absl gives the code of a failure
    sys.exit(0)
  except Exception as error:  # an experiment file may raise anything
    if "--debug" in arguments:
      raise
    _fail(_one_line(flag_errors.explain(error, arguments)))
  if len(rest) > 1:
    _fail(
      f"unexpected argument {rest[1]!r}; flags are written --name=value,"
      " and --help lists them."
    )
  if "workdir" in flags.FLAGS and flags.FLAGS.workdir == "":
    _fail("--workdir is empty, as by a shell variable that is not set.")
  return rest


def _list_shared_flags(binary: str) -> None:
  """Makes --help list the flags of `launch` that several binaries have."""
  for module, members in flags.FLAGS.flags_by_module_dict().items():
    if module.startswith("launch."):
      for flag in members:
        flags.FLAGS.register_key_flag_for_module(binary, flag)


def _guarded(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
  def call(arguments: list[str]) -> None:
    try:
      _keep_programs(_COMPILATION_CACHE.value)
      main(arguments)
      sys.stdout.flush()
    except BrokenPipeError:
      # Whoever read our output has closed it, as `head` does: no mistake.
      _drop_stdout()
    except Exception as error:
      if _DEBUG.value or not is_expected(error):
        raise
      _fail(message(error))

  return call


def _keep_programs(directory: str | None) -> None:
  if directory is None:
    return
  if "://" not in directory:
    directory = os.path.expanduser(directory)
    try:
      os.makedirs(directory, exist_ok=True)
    except OSError as error:
      raise OSError(
        f"--compilation_cache={directory} cannot be used ({error.strerror});"
        " give a directory that can be written."
      ) from error
  import jax  # what needs no device starts without it

  jax.config.update("jax_compilation_cache_dir", directory)


def is_expected(error: Exception) -> bool:
  """Whether an error is a user's mistake and needs no traceback."""
  is_memory = "RESOURCE_EXHAUSTED" in str(error)  # of XLA, a RuntimeError
  return is_memory or isinstance(error, ValueError | OSError | MemoryError)


def message(error: Exception) -> str:
  """An error as one line."""
  text = _one_line(str(error)) or type(error).__name__
  if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
    return f"memory does not suffice ({text[:300]}); work on less at once."
  return text


def _one_line(text: str) -> str:
  return " ".join(text.split())[:2000]


def _fail(text: str, code: int = 1) -> None:
  try:
    sys.stdout.flush()
  except OSError:  # a full disk; the message below says so
    _drop_stdout()
  print(f"error: {text}", file=sys.stderr, flush=True)
  sys.exit(code)


def _drop_stdout() -> None:
  """Keeps what is still buffered from failing once more at exit."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
