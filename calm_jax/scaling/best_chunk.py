"""The best K for a budget, with its band, and how it moves with the budget."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.scaling.allocation import (
  Candidate,
  affordable_tokens,
  candidate_features,
)
from calm_jax.scaling.law import Law, ends

Band = tuple[float, float, float]  # by the law, low and high end of 90 %


@dataclasses.dataclass(frozen=True)
class Curve:
  """The lowest loss that models of one K reach, over budgets [m]."""

  chunk_size: int
  training_flops: np.ndarray  # [m]
  losses: np.ndarray  # [m], by the law; nan: too little for any model
  samples: np.ndarray  # [S, m], of its bootstrap

  def band(self) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends of the 90 % band, [m] each."""
    low, high = np.quantile(self.samples, ends(0.9), axis=0)
    return low, high


@dataclasses.dataclass(frozen=True)
class BestChunk:
  """The best K at one budget."""

  training_flops: float
  chunk_size: int  # by the law
  low: int  # of the K that are best in 90 % of the bootstrap samples
  high: int
  shares: dict[int, float]  # of the samples in which a K is the best
  loss: Band  # of the best
  gaps: dict[int, Band]  # ln of L of each K over L of the smallest


def loss_curves(
  law: Law, candidates: Sequence[Candidate], budgets: np.ndarray
) -> list[Curve]:
  """The envelope over sizes of each K, where models were trained.

      L_K(C) = min over N of L(N, (C − f(K)) / c(N, K), K)

  A model, one size and K, counts from the budget that buys the fewest tokens
  that it was trained on, and spends no more than what buys the most, so that no
  model is extrapolated beyond its own runs.

  Args:
    law: of one family.
    candidates: its models; see `candidates_of`.
    budgets: C, [m].

  Returns:
    A curve for each K, rising.
  """
  curves = []
  for chunk_size in sorted({it.chunk_size for it in candidates}):
    mine = [it for it in candidates if it.chunk_size == chunk_size]
    tokens = np.array([affordable_tokens(mine, c) for c in budgets])  # [m, n]
    fewest, most = np.array([[it.min_tokens, it.max_tokens] for it in mine]).T
    # A budget computed from a run buys its tokens but for rounding.
    is_inside = tokens >= fewest * (1 - 1e-9)
    flat = candidate_features(
      mine * len(budgets),
      np.where(is_inside, np.minimum(tokens, most), 1.0).reshape(-1),
    )
    outside = np.where(is_inside, 0.0, np.inf)
    shape = tokens.shape
    losses = law.losses(flat).reshape(shape) + outside
    samples = law.sampled_losses(flat).reshape(-1, *shape) + outside
    curves.append(
      Curve(
        chunk_size,
        np.asarray(budgets, float),
        _finite(losses.min(axis=-1)),
        _finite(samples.min(axis=-1)),
      )
    )
  return curves


def common_budgets(
  candidates: Sequence[Candidate], num_budgets: int = 4
) -> np.ndarray:
  """Budgets [m] at which every K has a model within what was trained.

  Raises:
    ValueError: if there are none.
  """
  low, high = 0.0, np.inf
  for chunk_size in {it.chunk_size for it in candidates}:
    mine = [it for it in candidates if it.chunk_size == chunk_size]
    costs = [trained_costs(it) for it in mine]
    low = max(low, min(least for least, _ in costs))
    high = min(high, max(most for _, most in costs))
  if not low < high:
    raise ValueError(
      "no budget lies within what was trained of every K; train the smaller K"
      " on less or the larger K on more."
    )
  return np.geomspace(low, high, num_budgets)


def trained_costs(candidate: Candidate) -> tuple[float, float]:
  """FLOPs of the shortest and the longest training that a model has had."""
  it = candidate
  return (
    it.fixed_flops + it.training_flops_per_token * it.min_tokens,
    it.fixed_flops + it.training_flops_per_token * it.max_tokens,
  )


def best_chunk_sizes(curves: Sequence[Curve]) -> list[BestChunk]:
  """The best K at each budget of curves that are finite there."""
  sizes = np.array([curve.chunk_size for curve in curves])
  losses = np.array([curve.losses for curve in curves])  # [K, m]
  samples = np.array([curve.samples for curve in curves])  # [K, S, m]
  found = []
  for i, budget in enumerate(curves[0].training_flops):
    if not np.isfinite(losses[:, i]).all():
      continue
    best = int(losses[:, i].argmin())
    winners = sizes[samples[:, :, i].argmin(axis=0)]
    low, high = np.quantile(winners, ends(0.9), method="nearest")
    gaps = np.log(losses[:, i] / losses[0, i])
    spread = np.log(samples[:, :, i] / samples[0, :, i])
    found.append(
      BestChunk(
        float(budget),
        int(sizes[best]),
        int(low),
        int(high),
        {int(k): float((winners == k).mean()) for k in sizes},
        _with_band(losses[best, i], samples[best, :, i]),
        {
          int(k): _with_band(gaps[j], spread[j])
          for j, k in enumerate(sizes)
          if j
        },
      )
    )
  return found


def gap_changes(curves: Sequence[Curve]) -> dict[int, Band]:
  """How ln of L over that of the smallest K grows from first to last budget.

  Both ends are of the same bootstrap samples, so that what moves them together
  is not in the band.

  Args:
    curves: finite at the first and the last of their budgets.

  Returns:
    For every K but the smallest.
  """
  logs = np.log([curve.losses[[0, -1]] for curve in curves])  # [K, 2]
  samples = np.log([curve.samples[:, [0, -1]] for curve in curves])  # [K, S, 2]
  changes = np.diff(logs - logs[0])[..., 0]
  spread = np.diff(samples - samples[0])[..., 0]
  return {
    curve.chunk_size: _with_band(changes[j], spread[j])
    for j, curve in enumerate(curves)
    if j
  }


def _with_band(value: float, samples: np.ndarray) -> Band:
  low, high = np.quantile(samples, ends(0.9))
  return float(value), float(low), float(high)


def _finite(values: np.ndarray) -> np.ndarray:
  return np.where(np.isfinite(values), values, np.nan)
