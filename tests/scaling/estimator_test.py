"""Tests calm_jax/scaling/estimator.py on laws that are known."""

import numpy as np
import pytest

from calm_jax.scaling import estimator
from tests.scaling.known_laws import (
  CHUNK_LAW,
  SIZES,
  SMALL_GRID,
  SMALL_LAW,
  TOKEN_LAW,
  TOKENS,
  make_grid,
  make_losses,
)


def _num_covered(truth, grid, noise, num_trials):
  """In how many trials each parameter lies in its 90 % band."""
  found = estimator.estimate_laws(
    *grid,
    make_losses(truth, grid, noise, num_trials),
    use_chunk_size=len(truth) > 5,
    num_bootstraps=200,
  )
  covered = np.zeros(len(truth), int)
  for estimate, samples in zip(found.estimate, found.samples, strict=True):
    samples = estimator.widen(estimate, samples, found.widening)
    low, high = np.quantile(samples, (0.05, 0.95), axis=0)
    covered += (low <= truth) & (truth <= high)
  return covered


@pytest.mark.parametrize(
  ("truth", "grid", "noise"),
  [
    (TOKEN_LAW, make_grid(), 0.01),
    (CHUNK_LAW, make_grid(SIZES[:3], TOKENS[:3], (1, 2, 4, 8)), 0.01),
    (SMALL_LAW, SMALL_GRID, 0.018),
  ],
  ids=["tokens", "chunks", "no-limit"],
)
def test_parameters_lie_in_their_bands(truth, grid, noise):
  """At least 85 of 100 trials, for every parameter."""
  assert _num_covered(truth, grid, noise, 100).min() >= 85


def test_exact_points_give_the_exact_law():
  grid = make_grid(chunk_sizes=(1, 2, 4))
  found = estimator.estimate_laws(
    *grid,
    make_losses(CHUNK_LAW, grid, 0.0),
    use_chunk_size=True,
    num_bootstraps=2,
  )
  np.testing.assert_allclose(found.estimate[0], CHUNK_LAW, rtol=1e-4)


def test_log_law_is_the_formula():
  e, a, b = 1.5, 20.0, 30.0
  parameters = np.array([e, *np.log([a, b]), 0.3, 0.2, 0.4, 0.6])
  n, d, k = np.array([1e6, 3e7]), np.array([1e8, 1e9]), np.array([1.0, 4.0])
  expected = e + a * k**0.4 / n**0.3 + b * k**0.6 / d**0.2
  np.testing.assert_allclose(
    estimator.log_law(parameters, n, d, k), np.log(expected), rtol=1e-12
  )


def test_jacobian_is_the_slope():
  x = np.log(np.stack(make_grid(chunk_sizes=(1, 4))))
  x = x - x.mean(axis=1, keepdims=True)
  parameters = np.array([[0.1, -0.5, 0.3, 0.4, 0.2, 0.3, 0.5]])
  _, jacobian = estimator._evaluate(parameters, x)
  for i in range(7):
    step = 1e-6 * np.eye(7)[i]
    up, _ = estimator._evaluate(parameters + step, x)
    down, _ = estimator._evaluate(parameters - step, x)
    slope = (up - down)[0] / 2e-6
    np.testing.assert_allclose(jacobian[0, i], slope, atol=1e-8)


def test_one_broken_run_does_not_move_the_law():
  grid = make_grid()
  losses = make_losses(TOKEN_LAW, grid, 0.002)
  clean = estimator.estimate_laws(
    *grid, losses, use_chunk_size=False, num_bootstraps=2
  )
  losses[0, 5] *= 1.5
  broken = estimator.estimate_laws(
    *grid, losses, use_chunk_size=False, num_bootstraps=2
  )
  shift = estimator.log_law(broken.estimate, *grid) - estimator.log_law(
    clean.estimate, *grid
  )
  assert np.abs(shift).max() < 0.01  # least squares moves by 0.05


def test_noisy_runs_count_less():
  grid = make_grid()
  losses = make_losses(TOKEN_LAW, grid, 0.0)
  errors = np.zeros(16)
  losses[0, 3:6] *= 1.1
  errors[3:6] = 0.3 * losses[0, 3:6]
  found = estimator.estimate_laws(
    *grid, losses, errors, use_chunk_size=False, num_bootstraps=2
  )
  expected = estimator.log_law(TOKEN_LAW, *grid)
  predicted = estimator.log_law(found.estimate, *grid)[0]
  assert np.abs(predicted - expected).max() < 0.002


def test_bands_are_widened_about_the_estimate():
  estimate = np.array([2.0, 1.0])
  samples = np.array([[2.5, 1.5], [1.0, 0.5]])
  wide = estimator.widen(estimate, samples, 3.0)
  np.testing.assert_allclose(wide, [[3.5, 2.5], [0, -0.5]])
