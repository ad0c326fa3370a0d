"""Laws fitted to the points of a study, or a reason why they cannot be."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.scaling import estimator
from calm_jax.scaling.points import (
  QUANTITIES,
  Point,
  check_unique,
  score_of_loss,
  split_censored,
)

_MAX_CONDITION = 1e5  # of the Jacobian by (E, lnA, lnB, a, b, p, q)


@dataclasses.dataclass(frozen=True)
class Law:
  """A fitted law of one family and one quantity."""

  family: str  # calm | token
  quantity: str  # brier_lm | brier_1 | cross_entropy; see `Point.loss`
  points: tuple[Point, ...]  # that were fitted
  censored: tuple[tuple[Point, str], ...]  # that were not, and why
  names: tuple[str, ...]  # E, lnA, lnB, a, b (, p, q)
  estimate: np.ndarray  # [P]
  samples: np.ndarray  # [S, P], of the bootstrap over runs, as fitted
  widening: float  # of bands, see `estimator.estimate_laws`
  scatter: float  # robust std about the law of the ln L of an exact score

  @property
  def uses_chunk_size(self) -> bool:
    return "p" in self.names

  def parameters(self, level: float = 0.9) -> dict[str, tuple[float, ...]]:
    """E, A, B, a, b (, p, q): the estimate, low and high ends of its band."""
    samples = estimator.widen(self.estimate, self.samples, self.widening)
    low, high = np.quantile(samples, _ends(level), axis=0)
    result = {}
    for i, name in enumerate(self.names):
      values = np.array([self.estimate[i], low[i], high[i]])
      if name.startswith("ln"):
        name, values = name[2:], np.exp(values)
      result[name] = tuple(values.tolist())
    return result

  def losses(self, parameters, tokens, chunk_size) -> np.ndarray:
    """L at points given as arrays [n] or numbers: [n] float64."""
    arrays = _arrays(parameters, tokens, chunk_size)
    return np.exp(estimator.log_law(self.estimate, *arrays))

  def sampled_losses(self, parameters, tokens, chunk_size) -> np.ndarray:
    """L of every bootstrap sample at the points, widened in ln L: [S, n]."""
    arrays = _arrays(parameters, tokens, chunk_size)
    middle = estimator.log_law(self.estimate, *arrays)
    shift = estimator.log_law(self.samples, *arrays) - middle
    return np.exp(middle + self.widening * shift)

  def score(self, losses: np.ndarray) -> np.ndarray:
    """BrierLM, Brier-1 or cross-entropy of losses."""
    return np.vectorize(score_of_loss, otypes=[float])(losses, self.quantity)


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The largest run as the law of all smaller ones sees it."""

  point: Point
  loss: float  # observed
  predicted: float
  low: float  # of the 90 % band of a new run: its scatter, its score's error
  high: float

  @property
  def is_inside(self) -> bool:
    return self.low <= self.loss <= self.high


def fit_law(
  points: Sequence[Point],
  quantity: str = "brier_lm",
  *,
  num_bootstraps: int = 200,
  seed: int = 0,
) -> Law:
  """Fits L = E + A·K^p/N^a + B·K^q/D^b to the points of one family.

  K enters where the points have several; `estimator.estimate_laws` says how,
  `points.split_censored` which points count.

  Args:
    points: of one family, in any order.
    quantity: brier_lm, brier_1 or cross_entropy.
    num_bootstraps: S.
    seed: of the bootstrap.

  Returns:
    The law with its bands.

  Raises:
    ValueError: with the reason, if the points cannot identify the law.
  """
  family = _check_points(points, quantity)
  kept, censored = split_censored(points, quantity)
  arrays = {
    name: np.array([getattr(point, name) for point in kept], float)
    for name in ("parameters", "tokens", "chunk_size")
  }
  use_chunk_size = len({point.chunk_size for point in points}) > 1
  names = estimator.parameter_names(use_chunk_size)
  _check_variation(arrays, names, len(censored))
  losses, errors = np.array([point.loss(quantity) for point in kept]).T
  if losses.min() <= 0:
    worst = kept[int(losses.argmin())].name
    raise ValueError(
      f"point {worst!r} has a {quantity} loss of {losses.min():.3g}; the law"
      " needs losses above 0."
    )
  estimates = estimator.estimate_laws(
    *arrays.values(),
    losses[None],
    errors,
    use_chunk_size=use_chunk_size,
    num_bootstraps=num_bootstraps,
    seed=seed,
  )
  _check_identified(estimates)
  return Law(
    family,
    quantity,
    tuple(kept),
    tuple(censored),
    names,
    estimates.estimate[0],
    estimates.samples[0],
    estimates.widening,
    float(estimates.scatter[0]),
  )


def predict_largest(
  points: Sequence[Point],
  quantity: str = "brier_lm",
  *,
  num_bootstraps: int = 200,
  seed: int = 0,
) -> list[Prediction]:
  """Predicts the largest run from a law that has not seen it.

  The largest is the one with most training FLOPs among those that count, N·D
  where FLOPs are not given; all seeds of it are held out together.

  Args:
    points: of one family.
    quantity: see `fit_law`.
    num_bootstraps: see `fit_law`.
    seed: see `fit_law`.

  Returns:
    One prediction for each seed of the largest run.

  Raises:
    ValueError: with the reason, if the others cannot identify the law.
  """
  _check_points(points, quantity)
  kept, _ = split_censored(points, quantity)
  if not kept:
    raise ValueError(f"no point has a {quantity} that counts.")
  largest = max(kept, key=_size)
  held_out = [point for point in kept if _shape(point) == _shape(largest)]
  others = [point for point in points if _shape(point) != _shape(largest)]
  fitted = fit_law(others, quantity, num_bootstraps=num_bootstraps, seed=seed)
  shape = _shape(largest)
  predicted = fitted.losses(*shape)[0]
  middles = fitted.sampled_losses(*shape)[:, 0]
  noise = np.random.default_rng(seed).standard_normal(num_bootstraps)
  predictions = []
  for point in held_out:
    loss, error = point.loss(quantity)
    scatter = fitted.scatter / estimator.run_weights(error / loss)
    new_runs = middles * np.exp(scatter * noise)
    low, high = np.quantile(new_runs, _ends(0.9))
    predictions.append(Prediction(point, loss, predicted, low, high))
  return predictions


def _ends(level: float) -> tuple[float, float]:
  return (1 - level) / 2, (1 + level) / 2


def _arrays(*values) -> list[np.ndarray]:
  arrays = [np.atleast_1d(np.asarray(value, float)) for value in values]
  return list(np.broadcast_arrays(*arrays))


def _shape(point: Point) -> tuple[float, float, int]:
  return point.parameters, point.tokens, point.chunk_size


def _size(point: Point) -> float:
  return point.training_flops or point.parameters * point.tokens


def _check_points(points: Sequence[Point], quantity: str) -> str:
  """The one family of the points."""
  if quantity not in QUANTITIES:
    raise ValueError(
      f"quantity is {quantity!r}; choose one of {', '.join(QUANTITIES)}."
    )
  families = {point.family for point in check_unique(list(points))}
  if len(families) != 1:
    raise ValueError(
      f"the points are of {len(families)} families"
      f" ({', '.join(sorted(families)) or 'no points'}); fit each by itself."
    )
  return families.pop()


def _check_variation(
  arrays: dict[str, np.ndarray], names: tuple[str, ...], num_censored: int
) -> None:
  """Raises ValueError where counting shows that points do not suffice."""
  num_points, needed = len(arrays["tokens"]), len(names) + 1
  if num_points < needed:
    raise ValueError(
      f"{num_points} points count and {num_censored} are censored; a law with"
      f" {len(names)} parameters needs at least {needed} that count."
    )
  wanted = {"parameters": 2, "tokens": 2, "chunk_size": 2}
  if "p" not in names:
    wanted = {"parameters": 3, "tokens": 3}
  for name, number in wanted.items():
    found = len(set(arrays[name].tolist()))
    if found < number:
      raise ValueError(
        f"the points that count have {found} different values of {name}; the"
        f" law needs at least {number}."
      )


def _check_identified(estimates: estimator.Estimates) -> None:
  """Raises ValueError where the fit shows that the law is not determined."""
  vanished = {
    "lnA": "the loss does not fall with N",
    "lnB": "the loss does not fall with D",
  }
  for i, name in enumerate(estimates.names):
    # An E of 0 is an answer: the points do not tell it from 0.
    if estimates.is_at_bound[0, i] and name != "E":
      reason = vanished.get(name, "a power law does not follow these points")
      raise ValueError(
        f"the points do not identify the law: {name} ran to its limit;"
        f" {reason}."
      )
  if estimates.condition[0] > _MAX_CONDITION:
    weak = np.abs(estimates.weakest[0])
    together = [
      name
      for name, share in zip(estimates.names, weak, strict=True)
      if share > 0.2
    ]
    raise ValueError(
      "the points do not identify the law: the Jacobian has no full rank"
      f" (condition {estimates.condition[0]:.0e}), {', '.join(together)} cannot"
      " be told apart; add points that vary N, D and K apart from each other."
    )
