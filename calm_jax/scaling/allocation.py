"""What a budget buys: the best chunk size and model size.

points = read_points("RUNS/table.csv")  # of launch.sweep
law = fit_law([point for point in points if point.family == "calm"])
candidates = [
  Candidate(
    name=f"D = {model.hidden_size}, K = {model.chunk_size}",
    parameters=sum(num_parameters(model).values()),
    training_flops_per_token=sum(
      training_flops_per_token(
        model, autoencoder=autoencoder, convention="executed"
      ).values()
    ),
    chunk_size=model.chunk_size,
  )
  for model, autoencoder in resolved_configs
]
best, *others = rank_allocations(law, candidates, training_flops=1e20)
best.candidate.name, best.tokens, best.score, best.low, best.high
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from calm_jax.scaling.forms import features
from calm_jax.scaling.law import Law, ends
from calm_jax.scaling.points import Point, in_bytes


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A model that one could train; see `flops` for its two numbers."""

  name: str
  parameters: float  # N
  training_flops_per_token: float
  chunk_size: int = 1  # K
  fixed_flops: float = 0.0  # spent before the first token: the autoencoder's
  bytes_per_token: float = 1.0  # 1: the law counts D in tokens
  backbone_parameters: float = math.nan  # of N; nan: not known
  autoencoder_parameters: float = 0.0  # of the frozen one
  min_tokens: float = 0.0  # that a model of this size and K was trained on
  max_tokens: float = math.inf


@dataclasses.dataclass(frozen=True)
class Allocation:
  """A candidate trained on all the tokens that the budget buys."""

  candidate: Candidate
  tokens: float  # what the budget buys, or the most there are
  loss: float  # by the law
  low: float  # 90 % band
  high: float
  score: float  # BrierLM, Brier-1 or cross-entropy
  win_share: float  # of the bootstrap samples in which it is the best
  is_extrapolated: bool  # N, D or K lies outside the fitted points


def rank_allocations(
  law: Law,
  candidates: Sequence[Candidate],
  training_flops: float,
  *,
  max_tokens: float | None = None,
) -> list[Allocation]:
  """Which size and K to train for a budget, best first.

  argmin over (N, K) of L(N, (C − f(K)) / c(N, K), K), with c the training FLOPs
  a token and f what the autoencoder's training takes: a larger K makes tokens
  cheaper and the law worse.

  Args:
    law: of the candidates' family.
    candidates: models to choose from.
    training_flops: C, the budget.
    max_tokens: of the data at hand; None: as many as the budget buys.

  Returns:
    All candidates, the lowest predicted loss first.

  Raises:
    ValueError: if nothing is to be ranked, the budget does not pay for an
      autoencoder, or the law has no K and a candidate's K is not that of its
      points.
  """
  if not candidates or training_flops <= 0:
    raise ValueError(
      f"{len(candidates)} candidates and {training_flops:.3g} FLOPs; give at"
      " least one candidate and a positive budget."
    )
  seen = {point.chunk_size for point in law.points}
  chunk_sizes = [candidate.chunk_size for candidate in candidates]
  foreign = sorted(set(chunk_sizes) - seen)
  if foreign and not law.form.uses_chunk_size:
    raise ValueError(
      f"the law was fitted at K = {min(seen)} alone and says nothing of K ="
      f" {foreign[0]}; fit points of several K."
    )
  tokens = affordable_tokens(candidates, training_flops)
  if tokens.min() <= 0:
    name = candidates[int(tokens.argmin())].name
    raise ValueError(
      f"{training_flops:.3g} FLOPs do not pay for the autoencoder of {name!r};"
      " give a larger budget."
    )
  if max_tokens is not None:
    tokens = np.minimum(tokens, max_tokens)
  x = candidate_features(candidates, tokens)
  losses, samples = law.losses(x), law.sampled_losses(x)
  low, high = np.quantile(samples, ends(0.9), axis=0)
  wins = np.bincount(samples.argmin(axis=1), minlength=len(candidates))
  allocations = [
    Allocation(
      candidate,
      float(tokens[i]),
      float(losses[i]),
      float(low[i]),
      float(high[i]),
      float(law.score(losses[i])),
      float(wins[i] / len(samples)),
      _is_outside(law.points, candidate, tokens[i]),
    )
    for i, candidate in enumerate(candidates)
  ]
  return sorted(allocations, key=lambda allocation: allocation.loss)


def candidates_of(law: Law, *, is_shared: bool = False) -> list[Candidate]:
  """The models that a law was fitted to, one a size and K.

  Args:
    law: whose points have training FLOPs; others are left out, and where the
      price is shared, those that do not know by how many.
    is_shared: whether a model pays its share of its autoencoder's training
      alone, instead of all of it.
  """
  unit = in_bytes(law.points)
  found, trained = {}, defaultdict(list)
  for point in law.points:
    price = (
      point.shared_training_flops if is_shared else point.whole_training_flops
    )
    if price > 0:
      key = point.parameters, point.chunk_size
      trained[key].append(point.tokens)
      found[key] = Candidate(
        name=point.name,
        parameters=point.parameters,
        training_flops_per_token=point.training_flops / point.tokens,
        chunk_size=point.chunk_size,
        fixed_flops=max(price - point.training_flops, 0.0),
        bytes_per_token=point.bytes_per_token if unit else 1.0,
        backbone_parameters=point.backbone_parameters or math.nan,
        autoencoder_parameters=point.autoencoder_parameters,
        min_tokens=min(trained[key]),
        max_tokens=max(trained[key]),
      )
  return [found[key] for key in sorted(found)]


def affordable_tokens(
  candidates: Sequence[Candidate], training_flops: float
) -> np.ndarray:
  """Training tokens that a budget buys, [n]; below 0 where it buys none."""
  return np.array(
    [
      (training_flops - it.fixed_flops) / it.training_flops_per_token
      for it in candidates
    ]
  )


def candidate_features(
  candidates: Sequence[Candidate], tokens: np.ndarray
) -> np.ndarray:
  """x of `forms.features`, [V, n], of candidates trained on tokens [n]."""
  return features(
    [it.parameters for it in candidates],
    tokens * np.array([it.bytes_per_token for it in candidates]),
    [it.chunk_size for it in candidates],
    [it.backbone_parameters for it in candidates],
    [it.autoencoder_parameters for it in candidates],
  )


def _is_outside(
  points: Sequence[Point], candidate: Candidate, tokens: float
) -> bool:
  wanted = {
    "parameters": candidate.parameters,
    "tokens": tokens,
    "chunk_size": candidate.chunk_size,
  }
  return any(
    not min(values) <= value <= max(values)
    for name, value in wanted.items()
    for values in [[getattr(point, name) for point in points]]
  )
