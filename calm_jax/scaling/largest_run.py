"""The largest run as a law of the others predicts it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from calm_jax.scaling import estimator
from calm_jax.scaling.forms import Form
from calm_jax.scaling.law import counted_points, ends, fit_law
from calm_jax.scaling.points import Point, point_features


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A run as the law of others sees it."""

  point: Point
  loss: float  # observed
  predicted: float
  low: float  # of the 90 % band of a new run: its scatter, its score's error
  high: float

  @property
  def is_inside(self) -> bool:
    return self.low <= self.loss <= self.high


def predict_largest(
  points: Sequence[Point],
  quantity: str = "brier_lm",
  *,
  form: Form | None = None,
  num_bootstraps: int = 200,
  seed: int = 0,
) -> list[Prediction]:
  """Predicts the largest run from a law that has not seen it.

  The largest is the one with most training FLOPs among those that count, N·D
  where FLOPs are not given; all seeds of it are held out together.

  Args:
    points: of one family.
    quantity: see `fit_law`.
    form: see `fit_law`.
    num_bootstraps: see `fit_law`.
    seed: see `fit_law`.

  Returns:
    One prediction for each seed of the largest run.

  Raises:
    ValueError: with the reason, if the others cannot identify the law.
  """
  kept = counted_points(points, quantity)
  largest = max(kept, key=_size)
  held_out = [point for point in kept if point.place == largest.place]
  fitted = fit_law(
    [point for point in points if point.place != largest.place],
    quantity,
    form=form,
    num_bootstraps=num_bootstraps,
    seed=seed,
  )
  x = point_features(held_out)
  predicted, samples = fitted.losses(x), fitted.sampled_losses(x)
  noise = np.random.default_rng(seed).standard_normal(num_bootstraps)
  predictions = []
  for i, point in enumerate(held_out):
    loss, error = point.loss(quantity)
    weight = estimator.run_weights(error / loss, fitted.run_scatter)
    new_runs = samples[:, i] * np.exp(fitted.scatter / weight * noise)
    low, high = np.quantile(new_runs, ends(0.9))
    predictions.append(
      Prediction(point, loss, float(predicted[i]), float(low), float(high))
    )
  return predictions


def _size(point: Point) -> float:
  return point.training_flops or point.parameters * point.tokens
