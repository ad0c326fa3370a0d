"""What sampling colder does: accuracy against collision (paper §5.3, §7.6).

A sharper distribution is right more often and repeats itself more often. A
point of a curve is one way to sample: the batch method at (T, N_b), the head's
noise scaled, or a token model at its temperature, all at the same places of
the same text.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import tqdm

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.data.batch import Batch
from calm_jax.data.choice_items import Task
from calm_jax.data.pipeline import eval_batches
from calm_jax.evaluation.held_out_text import open_text
from calm_jax.evaluation.positions import select_positions
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from calm_jax.evaluation.temperature_curve import batch_method_columns
from calm_jax.evaluation.windows import Columns, summarise
from calm_jax.families import family_of
from calm_jax.runs.choosing import check_task, choose_run, hash_of
from calm_jax.runs.provenance import provenance
from calm_jax.runs.text_scorer import ChoiceSettings
from calm_jax.sampling.rows import num_parts
from calm_jax.workflows.explore_settings import ExploreSettings


def explore(
  run: LoadedRun,
  data: str,
  settings: ExploreSettings,
  *,
  baseline: LoadedRun | None = None,
  task: Task | None = None,
) -> dict[str, Any]:
  """Measures all points; all processes of the run's mesh call this together.

  Args:
    run: a next-vector model.
    data: a prepared directory or text files, see `open_text`.
    settings: which points.
    baseline: a token model with the same tokenizer, or None.
    task: questions, which each point but those of the batch method answers;
      that method chooses among chunks that were drawn, and scores no others.

  Returns:
    What the result file holds: `points`, each with its `method`, its
    settings, and `accuracy_n`, `collision_n` with their errors, and
    `choice_accuracy` if there is a task; provenance.

  Raises:
    ValueError, OSError: if runs and data do not fit, or cannot be read.
  """
  _check_runs(run, baseline)
  rows = _Rows(run, data, settings)
  if baseline is not None:
    rows.check(baseline)
  if task is not None:
    for scored in filter(None, (run, baseline)):
      check_task(scored, task, _choice_settings(settings))
  points = []
  is_silent = jax.process_index() > 0
  with tqdm.tqdm(
    desc="exploring", unit="curve", delay=1, disable=is_silent
  ) as bar:
    points += _batch_method(run, rows, settings)
    bar.update()
    points += _curve(
      run, rows, settings, "noise_scale", settings.noise_scales, task
    )
    bar.update()
    if baseline is not None:
      points += _curve(
        baseline,
        rows,
        settings,
        "temperature",
        settings.baseline_temperatures,
        task,
      )
      bar.update()
  result = {
    "points": points,
    "settings": {**dataclasses.asdict(settings), "data": data},
    **provenance(run, data_hash=rows.content_hash, seed=settings.seed),
  }
  if task is not None:
    result["task"] = {"form": task.form, "hash": hash_of(task)}
  if baseline is not None:
    result["baseline"] = provenance(
      baseline, data_hash=rows.content_hash, seed=settings.seed
    )
  return result


class _Rows:
  """The same text for every model, in rows of the shorter context."""

  def __init__(self, run: LoadedRun, data: str, settings: ExploreSettings):
    self._store = open_text(data, run.tokenizer)
    self._settings = settings
    self._length = run.config.data.row_length
    self._tokenizer_hash = run.tokenizer.content_hash
    self.content_hash = self._store.content_hash
    self.check(run)

  def check(self, run: LoadedRun) -> None:
    """Raises ValueError if a run cannot be scored on these rows."""
    if run.tokenizer.content_hash != self._tokenizer_hash:
      raise ValueError(
        f"{run.path} was trained with another tokenizer; scores compare only at"
        " equal tokenizers."
      )
    self._length = min(self._length, run.config.data.row_length)
    select_positions(
      self._settings.positions,
      row_length=self._length,
      chunk_size=run.config.model.chunk_size,
    )

  def batches(self, run: LoadedRun) -> list[Batch]:
    return list(
      eval_batches(
        self._store,
        self._settings.split,
        row_length=self._length,
        chunk_size=run.config.model.chunk_size,
        batch_size=self._settings.batch_size * num_parts(run.mesh),
        num_rows=self._settings.num_rows,
      )
    )


def _batch_method(
  run: LoadedRun, rows: _Rows, settings: ExploreSettings
) -> list[dict[str, Any]]:
  family = family_of(run.config.model)
  found = batch_method_columns(
    family.sampler_fn(run.config),
    family.bind_params(run.params, run.autoencoder),
    rows.batches(run),
    temperatures=settings.temperatures,
    candidate_counts=settings.candidate_counts,
    positions=settings.positions,
    seed=settings.seed,
    mesh=run.mesh,
  )
  return [
    _point("batch", columns, temperature=t, num_candidates=n)
    for (t, n), columns in found.items()
  ]


def _curve(
  run: LoadedRun,
  rows: _Rows,
  settings: ExploreSettings,
  name: str,
  values: Sequence[float],
  task: Task | None,
) -> list[dict[str, Any]]:
  """One number varied, everything else the model's own distribution."""
  family = family_of(run.config.model)
  sampler_fn = family.sampler_fn(run.config)
  measured = PredictionSettings(
    num_samples=settings.num_samples,
    positions=settings.positions,
    seed=settings.seed,
  )
  batches = rows.batches(run)
  method = "noise_scale" if name == "noise_scale" else "token_model"
  return [
    _point(
      method,
      prediction_columns(
        sampler_fn,
        family.bind_params(run.params, run.autoencoder, **{name: value}),
        batches,
        measured,
        mesh=run.mesh,
      ),
      **{name: value},
    )
    | _choices(run, settings, task, **{name: value})
    for value in values
  ]


def _choice_settings(settings: ExploreSettings) -> ChoiceSettings:
  return ChoiceSettings(
    num_samples=settings.num_samples, mutual=False, seed=settings.seed
  )


def _choices(
  run: LoadedRun,
  settings: ExploreSettings,
  task: Task | None,
  **sampling: float,
) -> dict[str, Any]:
  """How many questions a run answers rightly with what it draws this way."""
  if task is None:
    return {}
  found = choose_run(
    run,
    task,
    _choice_settings(settings),
    batch_size=settings.batch_size,
    **sampling,
  )
  return {
    f"choice_{name}": found[name]
    for name in ("accuracy", "accuracy_stderr", "estimate")
  }


def _point(method: str, columns: Columns, **settings: float) -> dict[str, Any]:
  scores, _ = summarise(
    {
      name: values
      for name, values in columns.items()
      if name.startswith(("count", "accuracy", "collision"))
    }
  )
  return {"method": method, **settings, **scores}


def _check_runs(run: LoadedRun, baseline: LoadedRun | None) -> None:
  model = run.config.model
  if not model.predicts or model.has_likelihoods:
    raise ValueError(
      f"--checkpoint={run.path} holds a model of kind {model.kind!r}; give a"
      " next-vector run there and a token model as --baseline."
    )
  if baseline is not None and not baseline.config.model.has_likelihoods:
    raise ValueError(
      f"--baseline={baseline.path} holds a model of kind"
      f" {baseline.config.model.kind!r}; give a token model."
    )
  if baseline is not None and baseline.mesh != run.mesh:
    raise ValueError(
      f"{run.path} and {baseline.path} lie on different devices; load both with"
      " the same mesh."
    )
