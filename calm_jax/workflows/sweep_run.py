"""Runs the points of a sweep one after another; it can end at any time."""

import contextlib
import dataclasses
import enum
import fcntl
import time
import traceback
from collections.abc import Iterator, Mapping

import jax
from etils import epath

from calm_jax import paths
from calm_jax.config import ExperimentConfig
from calm_jax.evaluation.result_file import write_result
from calm_jax.sampling.rows import check_processes
from calm_jax.training import processes
from calm_jax.workflows.sweep import Sweep
from calm_jax.workflows.sweep_file import needs
from calm_jax.workflows.sweep_point import score_point, train_point
from calm_jax.workflows.terminal import say


class Status(enum.Enum):
  """How an attempt at a point ended."""

  FINISHED = "finished"
  FAILED = "failed"
  BUSY = "another process is at work on it"
  WAITING = "its autoencoder or its teacher is not finished"
  STOPPED = "stopped by a signal"


def run_point(sweep: Sweep, name: str) -> Status:
  """Trains and scores a point, or goes on with it; its failure is no error.

  Of several processes that do so together, all end when one fails.
  """
  try:
    return _attempt(sweep, name)
  except Exception as error:  # whatever it is, the other points can go on
    message = " ".join(str(error).split()) or type(error).__name__
    say(f"point {name} failed: {message}")
    with contextlib.suppress(OSError):  # a full disk
      paths.write_whole(
        sweep.directory(name) / "error.txt", traceback.format_exc()
      )
    if jax.process_count() > 1:
      raise
    return Status.FAILED
  finally:
    jax.clear_caches()  # no other point runs these programs


def run_all(sweep: Sweep) -> dict[str, Status]:
  """Runs every point that is not finished.

  Several processes may do so in one workdir: each takes what is free.

  Returns:
    How it ended for every point that was not finished before; the points after
    a stop are missing.

  Raises:
    ValueError: if a result file is damaged or foreign, or a point could not be
      put in the table, before any work.
  """
  start = time.monotonic()
  count, todo = len(sweep.points), sweep.unfinished()
  num_before = count - len(todo)
  statuses: dict[str, Status] = {}
  say(f"{num_before} of {count} points are finished.")
  sweep.check_tabled(todo)
  while todo:
    for name in todo:
      statuses[name] = run_point(sweep, name)
      done = list(statuses.values()).count(Status.FINISHED)
      say(
        f"[{num_before + done} of {count} points,"
        f" {(time.monotonic() - start) / 60:.0f} min] {name}:"
        f" {statuses[name].value}"
      )
      if statuses[name] is Status.STOPPED:
        return statuses
    is_open = (Status.BUSY, Status.WAITING)
    again = [name for name in todo if statuses[name] in is_open]
    if len(again) == len(todo):
      break  # nobody here can do more
    todo = again
  return statuses


def check_finished(statuses: Mapping[str, Status]) -> None:
  """Raises ValueError if a point is not finished, naming all such."""
  left = [
    f"{name} ({status.value})"
    for name, status in statuses.items()
    if status is not Status.FINISHED
  ]
  if left:
    raise ValueError(
      f"not finished: {', '.join(left)}; the same command goes on with"
      " what is left."
    )


def _attempt(sweep: Sweep, name: str) -> Status:
  config, directory = sweep.points[name], sweep.directory(name)
  # What a file system shows may differ between hosts for seconds.
  is_there = lambda name: processes.first_says(sweep.result(name) is not None)
  if is_there(name):
    return Status.FINISHED
  if not all(map(is_there, needs(config))):
    return Status.WAITING
  config = _with_directories(sweep, config)
  sweep.check_tabled([name])
  # Better known before any training.
  check_processes(sweep.scoring.num_rows, jax.process_count())
  with _claimed(directory) as is_ours:
    if not processes.first_says(is_ours):
      return Status.BUSY
    if is_there(name):  # another one was faster
      return Status.FINISHED
    if not train_point(config, directory, name):
      return Status.STOPPED
    result = score_point(config, directory, sweep.scoring, name in sweep.shown)
    if jax.process_index() == 0:
      result["bytes_per_token"] = sweep.bytes_per_token
      result["fingerprint"] = sweep.fingerprint(name)
      write_result(str(sweep.result_file(name)), result)
      (directory / "error.txt").unlink(missing_ok=True)
    processes.meet("point finished")  # who leaves early ends the others
  return Status.FINISHED


@contextlib.contextmanager
def _claimed(directory: epath.Path) -> Iterator[bool]:
  """Holds a point for this process; whatever ends the process lets it go."""
  if jax.process_index() or paths.is_remote(directory):
    yield True
    return
  directory.mkdir(parents=True, exist_ok=True)
  with open(directory / "lock", "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      yield False
      return
    except OSError:  # a file system without locks
      pass
    yield True


def _with_directories(
  sweep: Sweep, config: ExperimentConfig
) -> ExperimentConfig:
  """The config with directories where it names other points."""
  place = lambda name: name and str(sweep.directory(name))
  data = dataclasses.replace(
    config.data, teacher_run=place(config.data.teacher_run)
  )
  return dataclasses.replace(
    config, autoencoder_run=place(config.autoencoder_run), data=data
  )
