"""Questions answered by scores of their candidates: accuracy with errors."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from calm_jax.evaluation.bootstrap import bootstrap

_NUM_BINS = 10  # of confidence


class Answers(NamedTuple):
  """What one estimate says of Q questions."""

  # [C] of each question, of its candidates: log p̂, or minus an energy score
  scores: Sequence[np.ndarray]
  lengths: Sequence[Sequence[int]]  # [C], characters of each choice
  answers: Sequence[int]  # the right one
  # Whether everything drawn most often is right, for questions of a single
  # candidate: the last word of a passage.
  is_top: Sequence[bool]
  # [C] of each question, scores of the candidates behind an empty context;
  # None: not asked for
  priors: Sequence[np.ndarray] | None = None


def columns_of(found: Answers) -> dict[str, np.ndarray]:
  """What becomes of each question.

  Args:
    found: of Q questions.

  Returns:
    By name [Q] float64: `accuracy` (the highest score is that of the answer; of
    several equally high ones, the first; where there is one candidate, whether
    it is what is drawn most often), `log_score` (the answer's) and, where there
    are several, `accuracy_normalised` (by score over characters),
    `accuracy_mutual` (by score minus prior, so that a text is not preferred for
    being common: Holtzman et al., arXiv:2104.08315), `confidence` (the largest
    share, softmax of the scores), `choice_brier` (Brier score of the shares, 0
    is best) and `choice_nats` (−log share of the answer).
  """
  log_score = [
    scores[answer]
    for scores, answer in zip(found.scores, found.answers, strict=True)
  ]
  if all(len(scores) == 1 for scores in found.scores):
    return {
      "accuracy": np.array(found.is_top, np.float64),
      "log_score": np.array(log_score, np.float64),
    }
  names = (
    "accuracy",
    "accuracy_normalised",
    "confidence",
    "choice_brier",
    "choice_nats",
  )
  rows = []
  for scores, lengths, answer in zip(
    found.scores, found.lengths, found.answers, strict=True
  ):
    shares = special.softmax(scores)
    right = np.arange(len(scores)) == answer
    by_length = np.asarray(scores) / np.maximum(lengths, 1)
    rows.append(
      (
        np.argmax(scores) == answer,
        np.argmax(by_length) == answer,
        shares.max(),
        np.square(shares - right).sum(),
        special.logsumexp(scores) - scores[answer],
      )
    )
  table = np.array(rows, np.float64)
  columns = dict(zip(names, table.T, strict=True))
  if found.priors is not None:
    gains = [a - b for a, b in zip(found.scores, found.priors, strict=True)]
    best = np.array([np.argmax(it) for it in gains])
    columns["accuracy_mutual"] = (best == found.answers).astype(np.float64)
  return columns | {"log_score": np.array(log_score, np.float64)}


def summarise_choices(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Means over questions, with standard errors by bootstrap over questions.

  Args:
    columns: [Q] by name.

  Returns:
    For each name its mean and `NAME_stderr` (None of a single question); with
    `confidence` also `overconfidence`, how far it exceeds the accuracy.
  """
  columns = dict(columns)
  if "confidence" in columns:
    columns["overconfidence"] = columns["confidence"] - columns["accuracy"]
  table = np.stack([*columns.values(), np.ones(num_items(columns))], axis=-1)
  interval = bootstrap(lambda sums: sums[..., :-1] / sums[..., -1:], table)
  return interval.named(columns)


def reliability(columns: Mapping[str, np.ndarray]) -> list[dict[str, float]]:
  """Confidence beside accuracy, in bins of equal width that have questions."""
  confidence = columns["confidence"]
  bins = np.minimum((confidence * _NUM_BINS).astype(int), _NUM_BINS - 1)
  return [
    {
      "num_items": int((bins == i).sum()),
      "confidence": float(confidence[bins == i].mean()),
      "accuracy": float(columns["accuracy"][bins == i].mean()),
    }
    for i in np.unique(bins)
  ]


def by_num_samples(
  columns: Mapping[int, Mapping[str, np.ndarray]],
) -> list[dict[str, Any]]:
  """Accuracies with fewer samples, and what is lost against all of them.

  Args:
    columns: by number of samples, ascending, [Q] by name.

  Returns:
    For each number `num_samples`, every `accuracy…` with its error and
    `accuracy…_lost`, that with all samples minus this one, of the same
    questions: paired errors.
  """
  last = columns[max(columns)]
  names = [name for name in last if name.startswith("accuracy")]
  return [
    {
      "num_samples": count,
      **summarise_choices(
        {name: ours[name] for name in names}
        | {f"{name}_lost": last[name] - ours[name] for name in names}
      ),
    }
    for count, ours in columns.items()
  ]


def num_items(columns: Mapping[str, np.ndarray]) -> int:
  """Q."""
  return len(next(iter(columns.values())))


def paired_difference(
  ours: np.ndarray, theirs: np.ndarray
) -> tuple[float, float | None]:
  """Mean of ours minus theirs, of the same questions, and its error.

  Args:
    ours: [Q].
    theirs: [Q].

  Returns:
    The difference and its standard error, smaller than that of two sets of
    questions as far as both models find the same ones hard.
  """
  found = summarise_choices({"difference": ours - theirs})
  return found["difference"], found["difference_stderr"]
