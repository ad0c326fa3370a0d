"""All suites one after another, each a process with a time limit of its own."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from etils import epath

from calm_jax import json_files

# Shares of the time by suite. What compiles longest for a row is last, so that
# the others have come before it is stopped.
SHARES = {
  "kernels": 3,
  "sizes": 5,
  "train": 3,
  "data": 2,
  "evaluate": 2,
  "generate": 4,
}


class Part(NamedTuple):
  """What became of a suite."""

  suite: str
  outcome: str  # complete | stopped | failed
  seconds: float
  limit_seconds: float


def run_parts(
  command_fn: Callable[[str, str | None], Sequence[str]],
  *,
  minutes: float,
  directory: str | None = None,
  shares: dict[str, int] = SHARES,
) -> list[Part]:
  """Runs all suites; one that is stuck or fails takes nothing from the others.

  A process that compiles cannot be interrupted from within, and a TPU belongs
  to one process; so this one touches no device, and ends those that are late.
  Time that a suite leaves over goes to those that follow.

  Args:
    command_fn: the command line that runs a suite, prints its rows and writes
      them to a file, or to none.
    minutes: for all suites together.
    directory: of those files, and of `parts.json`; it may not exist yet.
    shares: of the time, by suite and in their order.

  Returns:
    All parts.

  Raises:
    ValueError: if minutes is not positive.
    OSError: if the directory cannot be made.
  """
  if minutes <= 0:
    raise ValueError(f"minutes is {minutes}; it is positive.")
  path = directory and epath.Path(directory).expanduser()
  if path:
    try:
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise OSError(
        f"--output={directory} cannot be made ({error.strerror}); give a"
        " directory that can be written."
      ) from error
  end = time.monotonic() + 60 * minutes
  weights, parts = dict(shares), []
  for name, share in shares.items():
    start = time.monotonic()
    limit = max(end - start, 0.0) * share / sum(weights.values())
    del weights[name]
    sys.stdout.flush()
    output = str(path / f"{name}.json") if path else None
    process = subprocess.Popen(command_fn(name, output))
    try:
      outcome = "failed" if process.wait(limit) else "complete"
    except subprocess.TimeoutExpired:
      outcome = "stopped"
    finally:  # also where this process is interrupted
      process.kill()
      process.wait()
    parts.append(Part(name, outcome, time.monotonic() - start, limit))
    print(f"{name}: {outcome} after {parts[-1].seconds:.0f} s\n", flush=True)
    if path:
      rows = [it._asdict() for it in parts]
      json_files.write_json(path / "parts.json", {"parts": rows})
  return parts


def check_parts(parts: Sequence[Part]) -> None:
  """Raises ValueError if a part has not come to its end."""
  stopped = [it.suite for it in parts if it.outcome == "stopped"]
  failed = [it.suite for it in parts if it.outcome == "failed"]
  if failed:
    raise ValueError(
      f"{', '.join(failed)} failed, as said above; run it alone by"
      f" --suite={failed[0]} --debug."
    )
  if stopped:
    raise ValueError(
      f"{', '.join(stopped)} did not end in time, and rows that it had are"
      f" kept; give more --minutes, or run it alone by --suite={stopped[0]}."
    )
