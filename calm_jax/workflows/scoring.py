"""One step of a run, a list of them or a live run, scored and shown."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import tqdm
from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import LoadedRun, RunDirectory
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.evaluation.result_rows import ResultRows
from calm_jax.evaluation.table import format_table
from calm_jax.runs.follow import evaluate_steps, follow_run
from calm_jax.runs.runner import evaluate_run, expected_of
from calm_jax.training import processes
from calm_jax.workflows.terminal import say


def score(
  run: LoadedRun,
  data: str,
  settings: PredictionSettings,
  *,
  save_fn: Callable[[dict[str, Any]], None] | None = None,
  **others: Any,
) -> dict[str, Any]:
  """Scores a run with a bar and prints a table; see `evaluate_run`.

  Of several processes the first one saves and prints.

  Args:
    run: as loaded.
    data: as `evaluate_run` takes it.
    settings: what is measured.
    save_fn: takes the result before anything is printed.
    **others: arguments of `evaluate_run`.

  Returns:
    What a result file holds.
  """
  is_first = jax.process_index() == 0
  result = _evaluate(run, data, settings, **others)
  if is_first and save_fn is not None:
    save_fn(result)
  if is_first:
    _show(result)
  return result


def score_steps(
  checkpoint: str,
  output: str | None,
  data: str,
  settings: PredictionSettings,
  *,
  is_live: bool,
  steps: Collection[str] | None,
  wait_seconds: float | None,
  batch_size: int,
  mesh: Mesh | None = None,
  **others: Any,
) -> None:
  """Scores several steps of a run into one file, a line each.

  Of several processes the first one writes and prints.

  Args:
    checkpoint: the run directory.
    output: the file; steps that it has are not scored again.
    data: as `evaluate_run` takes it.
    settings: what is measured.
    is_live: waits for steps instead of refusing those that are missing.
    steps: the numbers, as written; None: all, with `is_live`.
    wait_seconds: see `follow_run`.
    batch_size: as `evaluate_run` takes it; changes no number.
    mesh: to score on; None: one device.
    **others: arguments of `evaluate_run` that say what is measured.

  Raises:
    ValueError, OSError: if anything does not fit, cannot be read or written.
  """
  if output is None:
    raise ValueError(
      "--follow and --steps need --output, a file that gets one line a step."
    )
  numbers = None if steps is None else _whole_numbers(steps)
  run, is_first = RunDirectory(checkpoint), jax.process_index() == 0
  rows = processes.together(lambda: _ShownRows(output) if is_first else None)

  def evaluate(loaded: LoadedRun) -> dict[str, Any]:
    return _evaluate(loaded, data, settings, batch_size=batch_size, **others)

  def expected(run: RunDirectory) -> dict[str, Any]:
    return expected_of(run, data, settings, **others)

  if is_live:
    follow_run(
      run,
      evaluate,
      rows,
      steps=numbers,
      mesh=mesh,
      wait_seconds=wait_seconds,
      warn_fn=_warn,
      expected_fn=expected,
    )
  else:
    evaluate_steps(run, numbers, evaluate, rows, mesh, expected_fn=expected)


class _ShownRows(ResultRows):
  """Prints each row once it is written."""

  def append(self, result: dict[str, Any]) -> None:
    super().append(result)
    print(f"step {result['step']}")
    _show(result)


def _evaluate(
  run: LoadedRun, data: str, settings: PredictionSettings, **others: Any
) -> dict[str, Any]:
  is_silent = jax.process_index() > 0
  with tqdm.tqdm(
    desc="evaluating", unit="row", delay=1, disable=is_silent
  ) as bar:
    return evaluate_run(run, data, settings, rows_fn=bar.update, **others)


def _show(result: dict[str, Any]) -> None:
  print(format_table(result), flush=True)
  for warning in result["warnings"]:
    _warn(warning)


def _whole_numbers(texts: Collection[str]) -> list[int]:
  try:
    return [int(text) for text in texts or [""]]
  except ValueError:
    raise ValueError(
      f"--steps is {','.join(texts)!r}; give whole numbers, as in 100,200."
    ) from None


def _warn(text: str) -> None:
  say(f"warning: {text}")
