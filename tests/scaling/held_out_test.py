"""Tests calm_jax/scaling/held_out.py; predictions: see law_test.py, too."""

import re

import numpy as np
import pytest

from calm_jax.scaling.forms import CHUNK_FORMS, features
from calm_jax.scaling.held_out import (
  compare_forms,
  mean_error,
  prediction_errors,
  splits_of,
  win_counts,
)
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
  # Leaving out a K needs three of them for that form alone.
  assert "K = 1" in able[0].errors
  assert last.win_share == 0 and np.isnan(last.error)


@pytest.mark.parametrize(
  ("sizes", "tokens", "chunk_sizes", "left"),
  [
    ([1e6, 1e7, 1e8], [1e8, 1e9, 1e10], (1, 2), "size 1|size 2|largest s|bud"),
    ([1e6, 1e8], [1e8, 1e9, 1e10], (1, 2, 4), "largest budget|K ="),
    ([1e6, 1e7, 1e8], [1e8, 1e10], (1, 2, 4), "size 1|size 2|largest s|K ="),
  ],
)
def test_only_splits_whose_rest_suffices_are_scored(
  sizes, tokens, chunk_sizes, left
):
  n, d, k = make_grid(sizes, tokens, chunk_sizes)
  grid = [n * k**0.1, d, k]
  points = make_points(CHUNK_LAW, grid, make_losses(CHUNK_LAW, grid, 1e-3)[0])
  forms = [CHUNK_FORMS["exponents"], CHUNK_FORMS["coefficients"]]
  for result in compare_forms(points, "cross_entropy", forms, num_bootstraps=2):
    every = splits_of(features(*grid))
    expected = [name for name in every if re.search(left, name)]
    assert list(result.errors) == expected


def test_seeds_of_one_place_share_the_weight_of_a_run():
  """A place with 50 copies among others does not decide the error."""
  grid = make_grid(chunk_sizes=(1, 2, 4))
  x, form = features(*grid), CHUNK_FORMS["coefficients"]
  losses = make_losses(CHUNK_LAW, grid, 0.01)
  is_held_out = grid[1] == grid[1].max()
  first = int(np.flatnonzero(is_held_out)[0])
  losses[:, first] *= 2
  index = np.array([*range(len(x.T)), *[first] * 50])
  once, often = (
    prediction_errors(
      form,
      x[:, mine],
      losses[:, mine],
      np.zeros(len(mine)),
      is_held_out[mine],
      run_scatter=0.01,
      num_bootstraps=8,
    )
    for mine in (index[: len(x.T)], index)
  )
  np.testing.assert_allclose(once, often, rtol=1e-6)
  assert np.ptp(often[0, 1:]) > 0.02  # the place has a weight, not its runs


def test_the_winner_has_the_lowest_mean_of_logarithms():
  errors = {"a": np.array([[1.0, 4.0], [9.0, 4.0]]), "b": np.full((2, 2), 3.5)}
  assert win_counts(errors) == {"a": 1, "b": 1}
  np.testing.assert_allclose(mean_error(errors["a"]), [3, 4])
  refused = {"a": errors["a"], "b": np.array([[2.0, np.inf], [2.0, np.inf]])}
  refused["a"] = np.array([[np.inf, np.inf], [np.inf, np.inf]])
  assert win_counts(refused) == {"a": 0, "b": 1}


def test_too_few_points_are_refused():
  grid = make_grid([1e6, 1e7], [1e8], (1, 2))
  points = make_points(CHUNK_LAW, grid, make_losses(CHUNK_LAW, grid, 0.0)[0])
  with pytest.raises(ValueError, match="4 points count, too few to leave out"):
    compare_forms(points, "cross_entropy")
