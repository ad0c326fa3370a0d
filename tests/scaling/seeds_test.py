"""Tests calm_jax/scaling/seeds.py."""

import math

import numpy as np
import pytest

from calm_jax.scaling.estimator import RUN_SCATTER
from calm_jax.scaling.points import Point
from calm_jax.scaling.seeds import run_scatter, score_error, seed_scatter


def _point(loss, tokens=1e6, seed=0):
  score = math.exp(-loss)
  return Point(
    name=f"{tokens}-{seed}",
    family="calm",
    parameters=1e5,
    tokens=tokens,
    seed=seed,
    scores={"brier_1": score},
    errors={"brier_1": 0.01 * score},
  )


def test_scatter_is_pooled_within_places():
  points = [
    *(_point(math.exp(x), 1e6, i) for i, x in enumerate((0.1, 0.2, 0.3))),
    *(_point(math.exp(x), 2e6, i) for i, x in enumerate((0.5, 0.7))),
    _point(0.3, 4e6),
  ]
  found = seed_scatter(points, "brier_1")
  assert found.degrees == 3
  assert found.value == pytest.approx(math.sqrt((0.02 + 0.02) / 3))
  assert found.low < found.value < found.high


def test_the_band_holds_the_scatter():
  rng = np.random.default_rng(0)
  inside = 0
  for _ in range(100):
    losses = np.exp(0.5 + 0.02 * rng.standard_normal((15, 3)))
    points = [
      _point(loss, 1e6 + place, seed)
      for place, row in enumerate(losses)
      for seed, loss in enumerate(row)
    ]
    found = seed_scatter(points, "brier_1")
    inside += found.low <= 0.02 <= found.high
  assert inside >= 85


def test_without_seeds_the_error_is_that_of_the_text():
  point = _point(1.5)
  assert seed_scatter([point], "brier_1") is None
  text = point.errors["brier_1"]
  assert score_error(point, "brier_1", None) == text


def test_errors_of_text_and_seed_add_up():
  point, twin = _point(1.5), _point(1.5 * 1.02, seed=1)
  scatter = seed_scatter([point, twin], "brier_1")
  # ln L apart by ln 1.02: the score moves by as much times L and itself.
  seed = math.log(1.02) / math.sqrt(2) * 1.5 * point.scores["brier_1"]
  expected = math.hypot(point.errors["brier_1"], seed)
  assert score_error(point, "brier_1", scatter) == pytest.approx(expected)


def test_copies_of_a_run_measure_no_scatter():
  points = [_point(0.1 * d, d, i) for d in (9.0, 13.0) for i in range(2)]
  found = seed_scatter(points, "brier_1")
  assert found.degrees == 2 and found.is_of_copies
  assert run_scatter(found) == run_scatter(None) == RUN_SCATTER
  twins = [_point(1.5), _point(1.51, seed=1)]
  measured = seed_scatter(twins, "brier_1")
  assert run_scatter(measured) == measured.value
