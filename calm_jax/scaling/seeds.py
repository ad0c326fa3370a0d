"""What another seed changes, measured where a place has several."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy import stats

from calm_jax.scaling.estimator import RUN_SCATTER
from calm_jax.scaling.points import Point, split_censored
from calm_jax.scaling.quantities import quantity_of

_LEAST_SCATTER = 1e-6  # of ln L; less is that of copies of one run


@dataclasses.dataclass(frozen=True)
class SeedScatter:
  """Standard deviation of ln L between runs that differ by their seed alone."""

  value: float
  low: float  # 90 % band, by χ² with as many degrees of freedom
  high: float
  degrees: int  # runs less places

  @property
  def is_of_copies(self) -> bool:
    """Whether the runs are so equal that they measure no scatter."""
    return self.value < _LEAST_SCATTER


def seed_scatter(points: Sequence[Point], quantity: str) -> SeedScatter | None:
  """Pooled over all places with several seeds; None where there is none.

      s² = Σ (ln L − mean of its place)² / (runs − places)

  All seeds are scored on one text, so that s does not hold its error. They
  share the autoencoder, too: what another one would change is not in s.

  Args:
    points: of one family.
    quantity: see `quantities`.

  Returns:
    The scatter, taken to be the same at all sizes, budgets and K.
  """
  places = defaultdict(list)
  for point in split_censored(points, quantity)[0]:
    places[point.place].append(np.log(point.loss(quantity)[0]))
  groups = [np.array(it) for it in places.values() if len(it) > 1]
  degrees = sum(len(it) - 1 for it in groups)
  if not degrees:
    return None
  squares = sum(float(np.square(it - it.mean()).sum()) for it in groups)
  ends = stats.chi2.ppf((0.95, 0.05), degrees)
  low, high = np.sqrt(squares / ends)
  return SeedScatter(
    float(np.sqrt(squares / degrees)), float(low), float(high), degrees
  )


def run_scatter(scatter: SeedScatter | None) -> float:
  """Std of ln L between seeds: as measured, or taken where it is not.

  Copies of one run measure none, and a scatter of 0 would leave no weight to
  any run whose score has an error.
  """
  if scatter is None or scatter.is_of_copies:
    return RUN_SCATTER
  return scatter.value


def score_error(
  point: Point, quantity: str, scatter: SeedScatter | None
) -> float:
  """Standard error of a score by its text and, where known, by its seed."""
  it = quantity_of(quantity)
  error = it.error(point)
  if scatter is None:
    return error
  loss, _ = point.loss(quantity)
  # A relative change of L by s changes −ln(score) by s·L.
  slope = 1.0 if it.best is None else it.score(point)
  return float(np.hypot(error, slope * loss * scatter.value))
