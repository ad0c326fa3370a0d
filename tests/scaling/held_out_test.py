"""Tests calm_jax/scaling/held_out.py; predictions: see law_test.py, too."""

import numpy as np
import pytest

from calm_jax.scaling.forms import CHUNK_FORMS, features
from calm_jax.scaling.held_out import compare_forms, splits_of, win_counts
from tests.scaling.known_laws import (
  CHUNK_LAW,
  make_grid,
  make_losses,
  make_points,
)


def test_splits_leave_out_sizes_the_largest_budget_and_every_k():
  # Models of one shape have other N at another K.
  n, d, k = make_grid([1e6, 1e7], [1e8, 1e9, 1e10], (1, 4))
  splits = splits_of(features(n * k**0.1, d, k))
  assert list(splits) == [
    *("size 1", "the largest size", "the largest budget", "K = 1", "K = 4")
  ]
  assert [mask.sum() for mask in splits.values()] == [6, 6, 4, 6, 6]
  np.testing.assert_array_equal(splits["the largest size"], n == 1e7)
  np.testing.assert_array_equal(splits["the largest budget"], d == 1e10)
  np.testing.assert_array_equal(splits["K = 4"], k == 4)


def test_the_true_form_comes_first():
  grid = make_grid(chunk_sizes=(1, 2, 4, 8))
  points = make_points(CHUNK_LAW, grid, make_losses(CHUNK_LAW, grid, 1e-3)[0])
  forms = [CHUNK_FORMS["exponents"], CHUNK_FORMS["coefficients"]]
  first, second = compare_forms(
    points, "cross_entropy", forms, num_bootstraps=50
  )
  assert first.form.name == "coefficients"
  assert first.error < 5e-3 < second.error
  assert first.win_share > 0.9


def test_a_form_that_the_points_refuse_comes_last_with_the_reason():
  grid = make_grid(chunk_sizes=(1, 2, 4))
  points = make_points(CHUNK_LAW, grid, make_losses(CHUNK_LAW, grid, 0.01)[0])
  *able, last = compare_forms(points, "cross_entropy", num_bootstraps=20)
  assert all(it.law and not it.refusal for it in able)
  assert last.form.name == "backbone" and last.law is None
  assert "'run0' has no backbone_parameters" in last.refusal
  assert last.win_share == 0 and np.isnan(last.error)


def test_the_winner_has_the_lowest_mean_of_logarithms():
  errors = {"a": np.array([[1.0, 4.0], [9.0, 4.0]]), "b": np.full((2, 2), 3.5)}
  assert win_counts(errors) == {"a": 1, "b": 1}


def test_too_few_points_are_refused():
  grid = make_grid([1e6, 1e7], [1e8], (1, 2))
  points = make_points(CHUNK_LAW, grid, make_losses(CHUNK_LAW, grid, 0.0)[0])
  with pytest.raises(ValueError, match="4 points count, too few to leave out"):
    compare_forms(points, "cross_entropy")
