"""Scores the steps of a run as they are saved, each once."""

import time
from collections.abc import Callable, Collection
from typing import Any

from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import LoadedRun, RunDirectory, load_run
from calm_jax.checkpoint.steps import DamagedStepError, list_steps
from calm_jax.evaluation.result_rows import ResultRows

_POLL_SECONDS = 1.0

EvaluateFn = Callable[[LoadedRun], dict[str, Any]]


def evaluate_steps(
  run: RunDirectory,
  steps: Collection[int],
  evaluate_fn: EvaluateFn,
  rows: ResultRows,
  mesh: Mesh | None = None,
) -> None:
  """Scores saved steps, in order, but for those that have a row.

  Args:
    run: the run.
    steps: all of them saved.
    evaluate_fn: makes a row of a step.
    rows: where it goes.
    mesh: to load the steps onto; None: one device.

  Raises:
    ValueError, OSError: if a step is missing or cannot be read.
  """
  for step in sorted({*steps} - rows.steps):
    run.find_step(step)
  for step in sorted({*steps} - rows.steps):
    rows.append(evaluate_fn(load_run(run.path, step, mesh, is_rounded=True)))


def follow_run(
  run: RunDirectory,
  evaluate_fn: EvaluateFn,
  rows: ResultRows,
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
  as long as it is there.

  Args:
    run: the run; it need not exist yet.
    evaluate_fn: makes a row of a step.
    rows: where it goes; steps that have a row are done.
    steps: score only these, and end with the last of them.
    mesh: to load the steps onto; None: one device.
    wait_seconds: give up after so long without a step to score; None: never.
    sleep_fn: waits between two looks at the run.
    warn_fn: takes a sentence about a step that cannot be read.

  Raises:
    ValueError: if no new step came for `wait_seconds`.
    OSError: if a row cannot be written.
  """
  wanted = None if steps is None else {*steps}
  unreadable: dict[int, int] = {}  # looks in a row, by step
  last_news = time.monotonic()
  while not _is_done(run, rows, wanted):
    has_news = False
    for step in list_steps(run.steps) if run.exists() else []:
      if step in rows.steps or (wanted is not None and step not in wanted):
        continue
      try:
        loaded = load_run(run.path, step, mesh, is_rounded=True)
      except FileNotFoundError:
        continue  # removed to make room for newer ones
      except DamagedStepError as error:
        unreadable[step] = unreadable.get(step, 0) + 1
        # At the first look it may be about to be removed.
        if unreadable[step] == 2:
          warn_fn(f"{error} It is left out unless it can be read later.")
        continue
      rows.append(evaluate_fn(loaded))
      has_news, last_news = True, time.monotonic()
    if has_news:
      continue
    if wait_seconds is not None and time.monotonic() > last_news + wait_seconds:
      raise ValueError(
        f"{run.path} has had no new step for {wait_seconds:g} s; scored so far:"
        f" {', '.join(map(str, sorted(rows.steps))) or 'none'}. The same"
        " command goes on from there."
      )
    sleep_fn(_POLL_SECONDS)


def _is_done(
  run: RunDirectory, rows: ResultRows, wanted: set[int] | None
) -> bool:
  if wanted is not None:
    return wanted <= rows.steps
  return run.exists() and run.read_config().num_steps in rows.steps
