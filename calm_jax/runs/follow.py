"""Scores the steps of a run as they are saved, each once."""

import math
import time
from collections.abc import Callable, Collection
from typing import Any

from jax.sharding import Mesh

from calm_jax import config_file
from calm_jax.checkpoint.run_directory import LoadedRun, RunDirectory, load_run
from calm_jax.checkpoint.steps import DamagedStepError, list_steps
from calm_jax.config import ExperimentConfig
from calm_jax.evaluation.result_rows import ResultRows
from calm_jax.training import processes

_POLL_SECONDS = 1.0

EvaluateFn = Callable[[LoadedRun], dict[str, Any]]
ExpectedFn = Callable[[RunDirectory], dict[str, Any]]


def evaluate_steps(
  run: RunDirectory,
  steps: Collection[int],
  evaluate_fn: EvaluateFn,
  rows: ResultRows | None,
  mesh: Mesh | None = None,
  *,
  expected_fn: ExpectedFn | None = None,
) -> None:
  """Scores saved steps, in order, but for those that have a row.

  All processes of the mesh call it together.

  Args:
    run: the run.
    steps: all of them saved.
    evaluate_fn: makes a row of a step.
    rows: where it goes; None on all processes but the first.
    mesh: to load the steps onto; None: one device.
    expected_fn: what all rows of the run have in common, before any is made;
      None: not known.

  Raises:
    ValueError, OSError: if a step is missing or cannot be read, or the rows
      that are there are of another run or measured otherwise.
  """

  def missing() -> list[int]:
    _check_rows(run, rows, expected_fn)
    found = sorted({*steps} - rows.steps)
    for step in found:
      run.find_step(step)
    return found

  for step in processes.first_lists(missing):
    loaded = load_run(run.path, step, mesh, is_rounded=True)
    _append(run, rows, evaluate_fn(loaded))


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
  expected_fn: ExpectedFn | None = None,
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
    expected_fn: as `evaluate_steps` takes it; asked once the run has begun.

  Raises:
    ValueError: if no new step came for `wait_seconds`, or the rows that are
      there are of another run or measured otherwise.
    OSError: if a row cannot be written.
  """
  watch = _Watch(
    run,
    rows,
    None if steps is None else {*steps},
    wait_seconds=math.inf if wait_seconds is None else wait_seconds,
    sleep_fn=sleep_fn,
    expected_fn=expected_fn,
  )
  unreadable: dict[int, int] = {}  # looks in a row, by step
  while ready := processes.first_lists(watch.ready_steps):
    for step in ready:
      try:
        loaded = load_run(run.path, step, mesh, is_rounded=True)
      except (
        FileNotFoundError,
        DamagedStepError,
        processes.OtherProcessError,
      ) as error:
        if not processes.first_says(step in list_steps(run.steps)):
          continue  # removed to make room for newer ones
        unreadable[step] = unreadable.get(step, 0) + 1
        # At the first look it may be about to be removed.
        if unreadable[step] == 2 and rows is not None:
          warn_fn(f"{error} It is left out unless it can be read later.")
        continue
      _append(run, rows, evaluate_fn(loaded))


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
    expected_fn: ExpectedFn | None,
  ):
    self._run = run
    self._rows = rows
    self._wanted = wanted
    self._wait_seconds = wait_seconds
    self._sleep_fn = sleep_fn
    self._expected_fn = expected_fn
    self._is_checked = False
    self._num_rows = -1  # at the last look
    self._last_news = time.monotonic()

  def ready_steps(self) -> list[int]:
    """Saved steps without a row; waits for them; none once all are scored."""
    if len(self._rows.steps) == self._num_rows:  # what was ready was not read
      self._wait()
    else:
      self._num_rows, self._last_news = len(self._rows.steps), time.monotonic()
    self._check_rows()
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
      self._check_rows()
    return []

  def _check_rows(self) -> None:
    """Looks once the run has begun, before anything is scored or done."""
    if not self._is_checked and self._run.exists():
      _check_rows(self._run, self._rows, self._expected_fn)
      self._is_checked = True

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


def _append(
  run: RunDirectory, rows: ResultRows | None, row: dict[str, Any]
) -> None:
  """Writes a row on the first process; fails on all if that does."""

  def append() -> None:
    if rows is None:
      return
    if run.exists():  # and may have been begun anew
      _check_run(run, rows)
    rows.append(row)

  processes.together(append)


def _check_rows(
  run: RunDirectory, rows: ResultRows, expected_fn: ExpectedFn | None
) -> None:
  """Raises ValueError if rows are there that this run would not give."""
  if not rows.rows:
    return
  _check_run(run, rows)
  if expected_fn is not None:
    rows.check(expected_fn(run))


def _check_run(run: RunDirectory, rows: ResultRows) -> None:
  """Raises ValueError if a row says that it is of another run.

  A run that was moved is the same, and so is one that went on with a change.
  """
  run.read_config()
  changed = {"num_steps"} | {it["field"] for it in run.history()}
  configs: list[Any] = []
  for row in rows.rows:
    config = row.get("config")
    if config is None or config in configs:
      continue
    configs.append(config)
    try:
      run.check_same(config_file.from_dict(ExperimentConfig, config), changed)
    except ValueError:
      rows.refuse(f"a run of another config than that of {run.path}")
