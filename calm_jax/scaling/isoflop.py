"""IsoFLOP parabolas: the best size at a budget, without a law."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from calm_jax.scaling.points import Point, split_censored

_NUM_SIZES = 3  # that a parabola needs


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
    quantity: see `quantities`.
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
