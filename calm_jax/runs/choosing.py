"""A run and questions to answers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.data.choice_items import Item, Task
from calm_jax.data.tokenizer_base import hash_parts
from calm_jax.evaluation.bootstrap import cluster_warning
from calm_jax.evaluation.candidates import (
  CandidateRow,
  CandidateSettings,
  candidate_terms,
  encode_candidate,
)
from calm_jax.evaluation.choices import (
  Answers,
  columns_of,
  paired_difference,
  reliability,
  summarise_choices,
)
from calm_jax.evaluation.chunk_terms import ChunkTerms
from calm_jax.evaluation.likelihood import PROBABILITIES, estimates_of
from calm_jax.families import family_of
from calm_jax.runs.provenance import provenance


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChoiceSettings(CandidateSettings):
  """How questions are answered."""

  estimate: str | None = None  # of `likelihood`; None: the first of the model
  bandwidth: float | None = None  # h of the kernel; None: by the latent's size
  mutual: bool = True  # also by how much the context adds; reads texts twice

  def __post_init__(self):
    super().__post_init__()
    if self.bandwidth is not None and not 0 < self.bandwidth < np.inf:
      raise ValueError(f"bandwidth is {self.bandwidth}; it is positive.")


class TextScorer:
  """Scores texts behind contexts with a run."""

  def __init__(self, run: LoadedRun, settings: ChoiceSettings):
    """Prepares.

    Args:
      run: a next-vector or token model.
      settings: how.

    Raises:
      ValueError: if run and settings do not fit.
    """
    model = run.config.model
    if not model.predicts:
      raise ValueError(
        f"{run.path} holds a model of kind {model.kind!r}, which predicts"
        " nothing; give a next-vector or token run."
      )
    self.estimates = estimates_of(model.has_likelihoods)
    self.name = settings.estimate or next(iter(self.estimates))
    if self.name not in self.estimates:
      raise ValueError(
        f"estimate is {self.name!r}, and a model of kind {model.kind!r} has"
        f" {', '.join(self.estimates)}."
      )
    self.settings = settings
    self._run = run
    family = family_of(model)
    self._sampler_fn = family.sampler_fn(run.config)
    self._params = family.bind_params(run.params, run.autoencoder)

  def encode(self, context: str, text: str) -> CandidateRow:
    """See `encode_candidate`."""
    config = self._run.config
    return encode_candidate(
      context,
      text,
      self._run.tokenizer,
      config.model.chunk_size,
      config.num_chunks,
    )

  def terms(
    self,
    candidates: Sequence[CandidateRow],
    batch_size: int = 8,
    rows_fn: Callable[[int], None] | None = None,
  ) -> list[ChunkTerms]:
    """See `candidate_terms`."""
    return candidate_terms(
      self._sampler_fn,
      self._params,
      candidates,
      self.settings,
      batch_size=batch_size,
      mesh=self._run.mesh,
      rows_fn=rows_fn,
    )

  def log_score(
    self,
    terms: ChunkTerms,
    name: str | None = None,
    num_samples: int | None = None,
  ) -> float:
    """log p̂ of a text, the sum over its chunks.

    Args:
      terms: of the text.
      name: of the estimate; None: that of the settings.
      num_samples: of the first so many samples; None: of all.
    """
    count = num_samples or self.settings.num_samples
    estimate = self.estimates[name or self.name]
    return float(estimate(terms, count, self.settings.bandwidth).sum())


def choose_run(
  run: LoadedRun,
  task: Task,
  settings: ChoiceSettings,
  *,
  num_examples: int = 0,
  batch_size: int = 8,
  against: Mapping[str, Any] | None = None,
  rows_fn: Callable[[int], None] | None = None,
) -> dict[str, Any]:
  """Answers questions by the scores of their candidates.

  Args:
    run: as loaded; all processes of its mesh call this together.
    task: its items, examples in front.
    settings: how they are scored.
    num_examples: k of these examples, for the record.
    batch_size: candidates that a device reads at once.
    against: another result of the same questions, to be compared with.
    rows_fn: called with the number of candidates of each batch.

  Returns:
    What a result file holds: the scores of `summarise_choices` by the chosen
    estimate, `estimates` with those of all, by number of samples too, `items`
    with answers and scores, `warnings`, settings and provenance.

  Raises:
    ValueError: if run, task and settings do not fit.
  """
  scorer = TextScorer(run, settings)
  task_hash = _hash(task.items)
  if against is not None:
    _check_against(against, task_hash)
  candidates = _encode(scorer, task.items)
  has_priors = settings.mutual and len(task.items[0].texts) > 1
  bare = sorted({it for item in task.items for it in item.texts})
  alone = [scorer.encode("", it) for it in bare] if has_priors else []
  found = scorer.terms([*candidates, *alone], batch_size, rows_fn)
  priors = dict(zip(bare, found[len(candidates) :], strict=False))
  stops = np.cumsum([len(item.texts) for item in task.items])
  terms = [
    found[stop - len(item.texts) : stop]
    for item, stop in zip(task.items, stops, strict=True)
  ]

  def answers(name: str, num_samples: int) -> Answers:
    def scores(groups):
      return [
        np.array([scorer.log_score(it, name, num_samples) for it in group])
        for group in groups
      ]

    return Answers(
      scores(terms),
      [item.lengths for item in task.items],
      [item.answer for item in task.items],
      [bool(group[0].is_top.all()) for group in terms],
      scores([priors[it] for it in item.texts] for item in task.items)
      if has_priors
      else None,
    )

  estimates = {}
  for name in scorer.estimates:
    columns = columns_of(answers(name, settings.num_samples))
    if name not in PROBABILITIES:  # and no calibration
      for it in ("confidence", "choice_brier", "choice_nats"):
        columns.pop(it, None)
    estimates[name] = summarise_choices(columns)
    if "confidence" in columns:
      estimates[name]["reliability"] = reliability(columns)
    if name not in ("exact", "energy"):
      estimates[name]["by_num_samples"] = [
        {"num_samples": s}
        | _accuracy(summarise_choices(columns_of(answers(name, s))))
        for s in _fewer(settings.num_samples)
      ]
  chosen = answers(scorer.name, settings.num_samples)
  columns = columns_of(chosen)
  result = {
    "kind": run.config.model.kind,
    "form": task.form,
    "estimate": scorer.name,
    "num_items": len(task.items),
    "chance": float(np.mean([1 / len(item.texts) for item in task.items])),
    **summarise_choices(columns),
    "estimates": estimates,
    "warnings": _warnings(candidates, len(task.items)),
  }
  if against is not None:
    difference, stderr = paired_difference(
      columns["accuracy"],
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
        "is_right": bool(is_right),
      }
      for item, scores, is_right in zip(
        task.items, chosen.scores, columns["accuracy"], strict=True
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


def _encode(scorer: TextScorer, items: Sequence[Item]) -> list[CandidateRow]:
  rows = []
  for number, item in enumerate(items):
    for context, text in zip(item.contexts, item.texts, strict=True):
      try:
        rows.append(scorer.encode(context, text))
      except ValueError as error:
        raise ValueError(f"question {number + 1}: {error}") from None
  return rows


def _accuracy(scores: Mapping[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in scores.items() if k.startswith("accuracy")}


def _fewer(num_samples: int) -> list[int]:
  """1, 2, 4, … and all."""
  powers = [2**i for i in range(num_samples.bit_length())]
  return sorted({*powers, num_samples})


def _hash(items: Sequence[Item]) -> str:
  parts = [
    repr((item.contexts, item.texts, item.answer)).encode() for item in items
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
