"""What a budget buys: the best chunk size and model size, IsoFLOP parabolas.

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
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from calm_jax.scaling.law import Law
from calm_jax.scaling.points import Point, split_censored

_NUM_SIZES = 3  # that a parabola needs


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A model that one could train; see `flops` for its two numbers."""

  name: str
  parameters: float  # N
  training_flops_per_token: float
  chunk_size: int = 1  # K


@dataclasses.dataclass(frozen=True)
class Allocation:
  """A candidate trained on all the tokens that the budget buys."""

  candidate: Candidate
  tokens: float  # D = budget / FLOPs a token, or the most there are
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

  argmin over (N, K) of L(N, C / c(N, K), K), with c the training FLOPs a
  token: a larger K makes tokens cheaper and the law worse.

  Args:
    law: of the candidates' family.
    candidates: models to choose from.
    training_flops: C, the budget.
    max_tokens: of the data at hand; None: as many as the budget buys.

  Returns:
    All candidates, the lowest predicted loss first.

  Raises:
    ValueError: if nothing is to be ranked, or the law has no K and a
      candidate's K is not that of its points.
  """
  if not candidates or training_flops <= 0:
    raise ValueError(
      f"{len(candidates)} candidates and {training_flops:.3g} FLOPs; give at"
      " least one candidate and a positive budget."
    )
  seen = {point.chunk_size for point in law.points}
  sizes = np.array([candidate.parameters for candidate in candidates])
  chunk_sizes = np.array([candidate.chunk_size for candidate in candidates])
  foreign = sorted(set(chunk_sizes.tolist()) - seen)
  if foreign and not law.uses_chunk_size:
    raise ValueError(
      f"the law was fitted at K = {min(seen)} alone and says nothing of K ="
      f" {foreign[0]}; fit points of several K."
    )
  tokens = training_flops / np.array(
    [candidate.training_flops_per_token for candidate in candidates]
  )
  if max_tokens is not None:
    tokens = np.minimum(tokens, max_tokens)
  losses = law.losses(sizes, tokens, chunk_sizes)
  samples = law.sampled_losses(sizes, tokens, chunk_sizes)
  low, high = np.quantile(samples, (0.05, 0.95), axis=0)
  wins = np.bincount(samples.argmin(axis=1), minlength=len(sizes))
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


@dataclasses.dataclass(frozen=True)
class IsoFlop:
  """Losses of several sizes at one training budget, and their parabola.

  L = c₀ + c₁·ln N + c₂·(ln N)², the smallest where ln N = −c₁ / 2c₂.
  """

  training_flops: float
  parameters: np.ndarray  # [n], N
  losses: np.ndarray  # [n]
  coefficients: np.ndarray  # [3], of rising powers of ln N
  best_parameters: float | None  # None: no minimum between the sizes


def isoflop_parabolas(
  points: Sequence[Point],
  quantity: str,
  *,
  num_budgets: int = 3,
) -> list[IsoFlop]:
  """Parabolas at budgets that at least three sizes have trained around.

  A size's loss at a budget lies on the line between its two neighbouring runs
  in (ln C, ln L), seeds averaged; nothing is extrapolated.

  Args:
    points: of one family and one K, with training FLOPs.
    quantity: brier_lm, brier_1 or cross_entropy.
    num_budgets: at most so many, spread over those possible.

  Returns:
    One fit a budget, rising.

  Raises:
    ValueError: if no budget lies between the runs of three sizes.
  """
  kept, _ = split_censored(points, quantity)
  curves = _curves(kept, quantity)
  ends = [budgets[i] for _, budgets, _ in curves for i in (0, -1)] or [0]
  grid = sorted({*ends, *np.linspace(min(ends), max(ends), 65).tolist()})
  possible = [c for c in grid if len(_at_budget(curves, c)) >= _NUM_SIZES]
  if not possible:
    raise ValueError(
      f"{len(curves)} sizes have points that count, and no training budget"
      f" lies between the runs of {_NUM_SIZES} of them; train the larger sizes"
      " on fewer tokens or the smaller ones on more."
    )
  chosen = np.linspace(0, len(possible) - 1, num_budgets).round().astype(int)
  return [
    _parabola(possible[i], _at_budget(curves, possible[i]))
    for i in sorted(set(chosen.tolist()))
  ]


def _curves(
  points: Sequence[Point], quantity: str
) -> list[tuple[float, np.ndarray, np.ndarray]]:
  """For each size: N, ln C [m] rising, ln L [m]."""
  runs = defaultdict(lambda: defaultdict(list))
  for point in points:
    if point.training_flops > 0:
      budget = float(np.log(point.training_flops))
      runs[point.parameters][budget].append(np.log(point.loss(quantity)[0]))
  curves = []
  for size, by_budget in sorted(runs.items()):
    budgets = sorted(by_budget)
    losses = [np.mean(by_budget[budget]) for budget in budgets]
    curves.append((size, np.array(budgets), np.array(losses)))
  return curves


def _at_budget(curves, log_budget: float) -> list[tuple[float, float]]:
  """(N, L) of the sizes whose runs lie around a budget."""
  return [
    (size, float(np.exp(np.interp(log_budget, budgets, losses))))
    for size, budgets, losses in curves
    if budgets[0] <= log_budget <= budgets[-1]
  ]


def _parabola(log_budget: float, at_budget: list[tuple[float, float]]):
  sizes, losses = np.array(at_budget).T
  x = np.log(sizes)
  middle = x.mean()  # powers of ln N itself are nearly collinear
  c2, c1, c0 = np.polyfit(x - middle, losses, 2)
  best = None
  if c2 > 0 and x[0] <= (vertex := middle - c1 / (2 * c2)) <= x[-1]:
    best = float(np.exp(vertex))
  coefficients = np.array(
    [c0 - c1 * middle + c2 * middle**2, c1 - 2 * c2 * middle, c2]
  )
  return IsoFlop(float(np.exp(log_budget)), sizes, losses, coefficients, best)


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
