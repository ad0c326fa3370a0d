"""Runs binaries in forks of one process that has imported the libraries.

`python -m launch.train` spends seconds on imports. This process does that once
and forks for each request; the fork then does what `python -m` does, in its own
directory and with its own limits. JAX starts its backends in the forks, never
here.

A request is a line of JSON on stdin: `module`, `arguments`, `directory`,
`limits` (names of `resource` and numbers) and `seconds`. The answer is a line
with `code`, null if the time was up, `stdout` and `stderr`.
"""

import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import sys
import time
import traceback

_IMPORTED = (
  "calm_jax.evaluation.runner",
  "calm_jax.interop.conversion",
  "calm_jax.interop.export",
  "calm_jax.interop.verification",
  "calm_jax.sampling.continuation",
  "calm_jax.workflows.training",
  "ml_collections.config_flags",
)


def _serve() -> None:
  for name in _IMPORTED:
    importlib.import_module(name)
  for line in sys.stdin:
    print(json.dumps(_answer(json.loads(line))), flush=True)


def _answer(request: dict) -> dict:
  pipes = [os.pipe(), os.pipe()]
  process = os.fork()
  if not process:
    _run(request, [end for _, end in pipes])
  chunks = {}
  with selectors.DefaultSelector() as selector:
    for name, (start, end) in zip(("stdout", "stderr"), pipes, strict=True):
      os.close(end)
      chunks[name] = []
      selector.register(start, selectors.EVENT_READ, name)
    deadline = time.monotonic() + request["seconds"]
    while selector.get_map() and time.monotonic() < deadline:
      for key, _ in selector.select(timeout=1):
        data = os.read(key.fd, 1 << 16)
        chunks[key.data].append(data)
        if not data:
          selector.unregister(key.fd)
    is_late = bool(selector.get_map())
  if is_late:
    os.kill(process, signal.SIGKILL)
  status = os.waitpid(process, 0)[1]
  for start, _ in pipes:
    os.close(start)
  code = None if is_late else os.waitstatus_to_exitcode(status)
  texts = {
    name: b"".join(parts).decode(errors="replace")
    for name, parts in chunks.items()
  }
  return {"code": code, **texts}


def _run(request: dict, outputs: list[int]) -> None:
  """What `python -m module` does; never returns."""
  code = 1
  try:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, end in enumerate(outputs, start=1):
      os.dup2(end, number)
    os.closerange(3, 1024)
    os.chdir(request["directory"])
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
    os._exit(code or 0)


if __name__ == "__main__":
  _serve()
