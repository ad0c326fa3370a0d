"""Tests calm_jax/scaling/estimator.py on laws that are known."""

import numpy as np
import pytest

from calm_jax.scaling import estimator
from calm_jax.scaling.forms import TOKEN_FORM, features
from tests.scaling.known_laws import (
  CHUNK_LAW,
  SIZES,
  SMALL_GRID,
  SMALL_LAW,
  TOKEN_LAW,
  TOKENS,
  form_of,
  log_law,
  make_grid,
  make_losses,
)


def _num_covered(truth, grid, noise, num_trials):
  """In how many trials each parameter lies in its 90 % band."""
  found = estimator.estimate_laws(
    form_of(truth),
    features(*grid),
    make_losses(truth, grid, noise, num_trials),
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
    form_of(CHUNK_LAW),
    features(*grid),
    make_losses(CHUNK_LAW, grid, 0.0),
    num_bootstraps=2,
  )
  np.testing.assert_allclose(found.estimate[0], CHUNK_LAW, rtol=1e-4)


def test_one_broken_run_does_not_move_the_law():
  grid = make_grid()
  losses = make_losses(TOKEN_LAW, grid, 0.002)
  clean = estimator.estimate_laws(
    TOKEN_FORM, features(*grid), losses, num_bootstraps=2
  )
  losses[0, 5] *= 1.5
  broken = estimator.estimate_laws(
    TOKEN_FORM, features(*grid), losses, num_bootstraps=2
  )
  shift = log_law(broken.estimate, grid) - log_law(clean.estimate, grid)
  assert np.abs(shift).max() < 0.01  # least squares moves by 0.05


def test_noisy_runs_count_less():
  grid = make_grid()
  losses = make_losses(TOKEN_LAW, grid, 0.0)
  errors = np.zeros(16)
  losses[0, 3:6] *= 1.1
  errors[3:6] = 0.3 * losses[0, 3:6]
  found = estimator.estimate_laws(
    TOKEN_FORM, features(*grid), losses, errors, num_bootstraps=2
  )
  expected = log_law(TOKEN_LAW, grid)
  predicted = log_law(found.estimate[0], grid)
  assert np.abs(predicted - expected).max() < 0.002


@pytest.mark.parametrize("backbone", [None, 1e7])
def test_more_seeds_of_the_same_text_do_not_narrow_a_band(backbone):
  """Twins of all runs: the places are as many, whether N's parts are known."""
  grid = make_grid()
  losses = make_losses(TOKEN_LAW, grid, 0.01)
  once, twice = (
    estimator.estimate_laws(
      TOKEN_FORM,
      np.tile(features(*grid, backbone=backbone), n),
      np.tile(losses, n),
      num_bootstraps=50,
    )
    for n in (1, 2)
  )
  assert once.widening == twice.widening
  np.testing.assert_allclose(once.samples, twice.samples, rtol=1e-3)


def test_bands_are_widened_about_the_estimate():
  estimate = np.array([2.0, 1.0])
  samples = np.array([[2.5, 1.5], [1.0, 0.5]])
  wide = estimator.widen(estimate, samples, 3.0)
  np.testing.assert_allclose(wide, [[3.5, 2.5], [0, -0.5]])
