"""Scores the steps of a run as they are saved, each once."""

import math
import time
from collections.abc import Callable, Collection
from typing import Any

from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import LoadedRun, RunDirectory, load_run
from calm_jax.checkpoint.steps import DamagedStepError, list_steps
from calm_jax.evaluation.result_rows import ResultRows
from calm_jax.training import processes

_POLL_SECONDS = 1.0

EvaluateFn = Callable[[LoadedRun], dict[str, Any]]


def evaluate_steps(
  run: RunDirectory,
  steps: Collection[int],
  evaluate_fn: EvaluateFn,
  rows: ResultRows | None,
  mesh: Mesh | None = None,
) -> None:
  """Scores saved steps, in order, but for those that have a row.

  All processes of the mesh call it together.

  Args:
    run: the run.
    steps: all of them saved.
    evaluate_fn: makes a row of a step.
    rows: where it goes; None on all processes but the first.
    mesh: to load the steps onto; None: one device.

  Raises:
    ValueError, OSError: if a step is missing or cannot be read.
  """

  def missing() -> list[int]:
    found = sorted({*steps} - rows.steps)
    for step in found:
      run.find_step(step)
    return found

  for step in processes.first_lists(missing):
    _append(rows, evaluate_fn(load_run(run.path, step, mesh, is_rounded=True)))


def follow_run(
  run: RunDirectory,
  evaluate_fn: EvaluateFn,
  rows: ResultRows | None,
  *,
  steps: Collection[int] | None = None,
  mesh: Mesh | None = None,
  wait_seconds: float | None = None,
  sleep_fn: Callable[[float], None] = time.sleep,
  warn_fn: Callable[[str], None],
) -> None:
  """Scores each step of a live run once, until the run's last step is scored.

  The trainer may be late, may die and be started again, and may remove steps
  before they are read. A step that cannot be read is named once and tried again
  as long as it is there. Of several processes, which call this together, the
  first one looks at the run and says what is next.

  Args:
    run: the run; it need not exist yet.
    evaluate_fn: makes a row of a step.
    rows: where it goes, None on all processes but the first; steps that have a
      row are done.
    steps: score only these, and end with the last of them.
    mesh: to load the steps onto; None: one device.
    wait_seconds: give up after so long without a step to score; None: never.
    sleep_fn: waits between two looks at the run.
    warn_fn: takes a sentence about a step that cannot be read.

  Raises:
    ValueError: if no new step came for `wait_seconds`.
    OSError: if a row cannot be written.
  """
  watch = _Watch(
    run,
    rows,
    None if steps is None else {*steps},
    wait_seconds=math.inf if wait_seconds is None else wait_seconds,
    sleep_fn=sleep_fn,
  )
  unreadable: dict[int, int] = {}  # looks in a row, by step
  while ready := processes.first_lists(watch.ready_steps):
    for step in ready:
      try:
        loaded = load_run(run.path, step, mesh, is_rounded=True)
      except (OSError, DamagedStepError, processes.OtherProcessError) as error:
        if not processes.first_says(step in list_steps(run.steps)):
          continue  # removed to make room for newer ones
        unreadable[step] = unreadable.get(step, 0) + 1
        # At the first look it may be about to be removed.
        if unreadable[step] == 2 and rows is not None:
          warn_fn(f"{error} It is left out unless it can be read later.")
        continue
      _append(rows, evaluate_fn(loaded))


class _Watch:
  """Looks at a live run."""

  def __init__(
    self,
    run: RunDirectory,
    rows: ResultRows | None,
    wanted: set[int] | None,
    *,
    wait_seconds: float,
    sleep_fn: Callable[[float], None],
  ):
    self._run = run
    self._rows = rows
    self._wanted = wanted
    self._wait_seconds = wait_seconds
    self._sleep_fn = sleep_fn
    self._num_rows = -1  # at the last look
    self._last_news = time.monotonic()

  def ready_steps(self) -> list[int]:
    """Saved steps without a row; waits for them; none once all are scored."""
    if len(self._rows.steps) == self._num_rows:  # what was ready was not read
      self._wait()
    else:
      self._num_rows, self._last_news = len(self._rows.steps), time.monotonic()
    while not self._is_done():
      found = list_steps(self._run.steps) if self._run.exists() else []
      ready = [
        step
        for step in found
        if step not in self._rows.steps
        and (self._wanted is None or step in self._wanted)
      ]
      if ready:
        return ready
      self._wait()
    return []

  def _is_done(self) -> bool:
    if self._wanted is not None:
      return self._wanted <= self._rows.steps
    if not self._run.exists():
      return False
    return self._run.last_step() in self._rows.steps

  def _wait(self) -> None:
    if time.monotonic() > self._last_news + self._wait_seconds:
      scored = ", ".join(map(str, sorted(self._rows.steps))) or "none"
      raise ValueError(
        f"{self._run.path} has had no new step for {self._wait_seconds:g} s;"
        f" scored so far: {scored}. The same command goes on from there."
      )
    self._sleep_fn(_POLL_SECONDS)


def _append(rows: ResultRows | None, row: dict[str, Any]) -> None:
  """Writes a row on the first process; fails on all if that does."""
  processes.together(lambda: None if rows is None else rows.append(row))
