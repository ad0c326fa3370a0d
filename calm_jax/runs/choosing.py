"""A run and questions to answers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.data.choice_forms import Item
from calm_jax.data.choice_items import Task
from calm_jax.data.tokenizer_base import hash_parts
from calm_jax.evaluation.bootstrap import cluster_warning
from calm_jax.evaluation.candidates import CandidateRow
from calm_jax.evaluation.choices import (
  Answers,
  by_num_samples,
  columns_of,
  paired_difference,
  reliability,
  summarise_choices,
)
from calm_jax.evaluation.chunk_terms import joined
from calm_jax.evaluation.likelihood import PROBABILITIES
from calm_jax.runs.provenance import provenance
from calm_jax.runs.text_scorer import ChoiceSettings, TextScorer

_UNCALIBRATED = ("confidence", "choice_brier", "choice_nats")  # no shares


def choose_run(
  run: LoadedRun,
  task: Task,
  settings: ChoiceSettings,
  *,
  num_examples: int = 0,
  batch_size: int = 8,
  against: Mapping[str, Any] | None = None,
  progress_fn: Callable[[int, int], None] | None = None,
  **sampling: float,
) -> dict[str, Any]:
  """Answers questions by the scores of their candidates.

  Args:
    run: as loaded; all processes of its mesh call this together.
    task: its items, examples in front.
    settings: how they are scored.
    num_examples: k of these examples, for the record.
    batch_size: candidates that a device reads at once.
    against: another result of the same questions, to be compared with.
    progress_fn: called after each batch with the texts done, and all.
    **sampling: see `TextScorer`.

  Returns:
    What a result file holds: the scores of `summarise_choices` by the chosen
    estimate, `estimates` with those of all, by number of samples too, `items`
    with answers and scores, `warnings`, settings and provenance.

  Raises:
    ValueError: if run, task and settings do not fit.
  """
  scorer = TextScorer(run, settings, **sampling)
  task_hash = hash_of(task)
  if against is not None:
    _check_against(against, task_hash)
  candidates = _encode(scorer, task.items)
  has_priors = settings.mutual and len(task.items[0].texts) > 1
  bare = sorted({it for item in task.items for it in item.texts})
  alone = [scorer.encode("", it) for it in bare] if has_priors else []
  found = scorer.terms([*candidates, *alone], batch_size, progress_fn)
  texts = joined(found)
  stops = np.cumsum([len(item.texts) for item in task.items])
  starts = stops - [len(item.texts) for item in task.items]

  def answers(name: str, num_samples: int) -> Answers:
    scores = scorer.log_scores(texts, name, num_samples)
    priors = dict(zip(bare, scores[len(candidates) :], strict=False))
    return Answers(
      np.split(scores[: len(candidates)], stops[:-1]),
      [item.lengths for item in task.items],
      [item.answer for item in task.items],
      [bool(found[start].is_top.all()) for start in starts],
      [np.array([priors[it] for it in item.texts]) for item in task.items]
      if has_priors
      else None,
    )

  estimates = {
    name: _of_estimate(name, answers, settings.num_samples)
    for name in scorer.estimates
  }
  chosen = answers(scorer.name, settings.num_samples)
  is_right = columns_of(chosen)["accuracy"]
  result = {
    "kind": run.config.model.kind,
    "form": task.form,
    "estimate": scorer.name,
    "num_items": len(task.items),
    "chance": float(np.mean([1 / len(item.texts) for item in task.items])),
    **{
      name: value
      for name, value in estimates[scorer.name].items()
      if not isinstance(value, list)
    },
    "estimates": estimates,
    "warnings": _warnings(candidates, len(task.items)),
  }
  if against is not None:
    difference, stderr = paired_difference(
      is_right,
      np.array([item["is_right"] for item in against["items"]], np.float64),
    )
    result["accuracy_minus_against"] = difference
    result["accuracy_minus_against_stderr"] = stderr
  return {
    **result,
    "items": [
      {
        "answer": item.answer,
        "scores": scores.tolist(),
        "is_right": bool(right),
      }
      for item, scores, right in zip(
        task.items, chosen.scores, is_right, strict=True
      )
    ],
    "task_hash": task_hash,
    "settings": {
      "num_examples": num_examples,
      **{
        name: value
        for name, value in dataclasses.asdict(settings).items()
        if name not in ("seed", "estimate")
      },
    },
    **provenance(run, data_hash=task_hash, seed=settings.seed),
  }


def check_task(run: LoadedRun, task: Task, settings: ChoiceSettings) -> None:
  """Raises ValueError if a run cannot answer one of the questions."""
  _encode(TextScorer(run, settings), task.items)


def _encode(scorer: TextScorer, items: Sequence[Item]) -> list[CandidateRow]:
  rows = []
  for number, item in enumerate(items):
    for context, text in zip(item.contexts, item.texts, strict=True):
      try:
        rows.append(scorer.encode(context, text))
      except ValueError as error:
        raise ValueError(f"question {number + 1}: {error}") from None
  return rows


def _of_estimate(
  name: str, answers: Callable[[str, int], Answers], num_samples: int
) -> dict[str, Any]:
  """Scores by one estimate, its calibration and what fewer samples give."""
  columns = columns_of(answers(name, num_samples))
  if name not in PROBABILITIES:
    for it in _UNCALIBRATED:
      columns.pop(it, None)
  result: dict[str, Any] = summarise_choices(columns)
  if "confidence" in columns:
    result["reliability"] = reliability(columns)
  # A single candidate is right by what is drawn most often of all samples.
  if name != "exact" and "accuracy_normalised" in columns:
    result["by_num_samples"] = by_num_samples(
      {
        s: columns_of(answers(name, s))
        for s in _fewer(num_samples)
        if s > 1 or name != "energy"  # which needs a pair
      }
    )
  return result


def _fewer(num_samples: int) -> list[int]:
  """1, 2, 4, … and all."""
  powers = [2**i for i in range(num_samples.bit_length())]
  return sorted({*powers, num_samples})


def hash_of(task: Task) -> str:
  """sha256 of all questions and their answers."""
  parts = [
    repr((item.contexts, item.texts, item.answer)).encode()
    for item in task.items
  ]
  return hash_parts(*parts)


def _check_against(against: Mapping[str, Any], task_hash: str) -> None:
  if against.get("task_hash") != task_hash:
    raise ValueError(
      "--against is not a result of launch.choose on the same questions with"
      " the same examples; score that run with the same --task, --num_examples,"
      " --num_items and --seed."
    )


def _warnings(candidates: Sequence[CandidateRow], num_items: int) -> list[str]:
  warnings = []
  if cut := sum(row.is_cut for row in candidates):
    warnings.append(
      f"{cut} of {len(candidates)} contexts are longer than the model's and"
      " lost their beginning."
    )
  few = cluster_warning(num_items, "questions", advice="")
  return warnings if few is None else [*warnings, few]
