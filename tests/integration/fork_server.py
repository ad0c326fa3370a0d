"""Runs binaries in forks of one process that has imported the libraries.

`python -m launch.train` spends seconds on imports. This process does that once
and forks for each request; the fork then does what `python -m` does, in its own
directory and with its own limits. JAX starts its backends in the forks, never
here.

A request is a line of JSON on stdin, and its answer one on stdout:

    module, arguments, directory, environment (what is added), limits (names
    of `resource` and numbers)  → pid
    wait (a pid), seconds       → code, null while it runs, stdout and stderr

Output waits in a pipe, so a process that prints much must be waited for.
"""

import contextlib
import importlib
import json
import os
import resource
import runpy
import sys
import time
import traceback
from unittest import mock

from jax._src import compiler, distributed

_IMPORTED = (
  "calm_jax.runs.runner",
  "calm_jax.interop.conversion",
  "calm_jax.interop.export",
  "calm_jax.interop.verification",
  "calm_jax.runs.continuation",
  "calm_jax.workflows.training",
  "ml_collections.config_flags",
)


_outputs: dict[int, list[int]] = {}  # ends of pipes, by process


def _serve() -> None:
  for name in _IMPORTED:
    importlib.import_module(name)
  _let_every_process_cache()
  for line in sys.stdin:
    request = json.loads(line)
    answer = _wait(**request) if "wait" in request else _start(request)
    print(json.dumps(answer), flush=True)


def _let_every_process_cache() -> None:
  """Makes JAX store the programs of all processes of a run.

  By itself it stores those of process 0 only, which are not those of the
  others: they would compile anew at each of many restarts.
  """
  write = compiler._cache_write

  def write_as_first(*arguments):
    with mock.patch.object(distributed.global_state, "process_id", 0):
      write(*arguments)

  compiler._cache_write = write_as_first


def _start(request: dict) -> dict:
  pipes = [os.pipe(), os.pipe()]
  process = os.fork()
  if not process:
    _run(request, [end for _, end in pipes])
  for start, end in pipes:
    os.close(end)
    os.set_blocking(start, False)
  _outputs[process] = [start for start, _ in pipes]
  return {"pid": process}


def _wait(wait: int, seconds: float) -> dict:
  deadline = time.monotonic() + seconds
  texts = [b"", b""]
  code = None
  while True:
    process, status = os.waitpid(wait, os.WNOHANG)
    if process:
      code = os.waitstatus_to_exitcode(status)
    for i, start in enumerate(_outputs[wait]):
      texts[i] += _read(start)
    if code is not None or time.monotonic() >= deadline:
      break
    time.sleep(0.01)
  if code is not None:
    for i, start in enumerate(_outputs.pop(wait)):
      os.set_blocking(start, True)  # what a child of its own still has to say
      with os.fdopen(start, "rb") as pipe:
        texts[i] += pipe.read()
  stdout, stderr = (text.decode(errors="replace") for text in texts)
  return {"code": code, "stdout": stdout, "stderr": stderr}


def _read(start: int) -> bytes:
  """All that a pipe holds now."""
  text = b""
  with contextlib.suppress(BlockingIOError):
    while chunk := os.read(start, 1 << 16):
      text += chunk
  return text


def _run(request: dict, outputs: list[int]) -> None:
  """What `python -m module` does; never returns."""
  code = 1
  try:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, end in enumerate(outputs, start=1):
      os.dup2(end, number)
    os.closerange(3, 1024)
    os.chdir(request["directory"])
    os.environ.update(request["environment"])
    for name, limit in request["limits"].items():
      resource.setrlimit(getattr(resource, name), (limit, limit))
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    code = 0
  except SystemExit as error:
    code = error.code
    if code is not None and not isinstance(code, int):
      print(code, file=sys.stderr)
      code = 1
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    # As JAX does when Python exits: who leaves early ends the others.
    distributed.shutdown()
    os._exit(code or 0)


if __name__ == "__main__":
  _serve()
