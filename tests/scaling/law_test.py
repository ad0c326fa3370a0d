"""Tests calm_jax/scaling/law.py on points whose law is known."""

import dataclasses

import numpy as np
import pytest

from calm_jax.scaling.estimator import estimate_laws
from calm_jax.scaling.forms import CHUNK_FORMS, TOKEN_FORM, features
from calm_jax.scaling.largest_run import predict_largest
from calm_jax.scaling.law import fit_law, is_identified
from calm_jax.scaling.points import Point
from tests.scaling.known_laws import (
  CHUNK_LAW,
  SIZES,
  TOKEN_LAW,
  TOKENS,
  make_grid,
  make_losses,
  make_points,
)


def test_law_of_points_with_k():
  grid = make_grid(chunk_sizes=(1, 2, 4))
  losses = make_losses(CHUNK_LAW, grid, 0.005)[0]
  points = make_points(CHUNK_LAW, grid, losses, "brier_lm")
  weak = Point(
    name="weak",
    family="calm",
    parameters=1e6,
    tokens=1e6,
    chunk_size=8,
    scores={f"brier_{n}": 0.01 for n in range(1, 5)} | {"brier_lm": 1.0},
    errors={f"brier_{n}": 0.01 for n in range(1, 5)},
  )
  found = fit_law([*points, weak], "brier_lm")
  assert [point.name for point, _ in found.censored] == ["weak"]
  values = [CHUNK_LAW[0], *np.exp(CHUNK_LAW[1:3]), *CHUNK_LAW[3:]]
  truth = dict(zip("EABabpq", values, strict=True))
  for name, (value, low, high) in found.parameters().items():
    assert low < value < high
    assert low < truth[name] < high, name
  predicted = found.losses(features(*grid))
  np.testing.assert_allclose(predicted, losses, rtol=0.03)
  scores = found.score(predicted)
  np.testing.assert_allclose(scores, 100 * np.exp(-predicted))


def test_largest_run_is_predicted_unseen():
  grid = make_grid()
  losses = make_losses(TOKEN_LAW, grid, 0.005)[0]
  points = make_points(TOKEN_LAW, grid, losses)
  [prediction] = predict_largest(points, "cross_entropy")
  assert prediction.point.name == points[-1].name
  assert prediction.is_inside
  # What the largest run says must not matter to what is predicted.
  lied = [
    *points[:-1],
    make_points(TOKEN_LAW, grid, 2 * losses)[-1],
  ]
  [second] = predict_largest(lied, "cross_entropy")
  assert second.predicted == prediction.predicted
  assert not second.is_inside


def test_a_prediction_allows_for_the_error_of_the_score():
  grid = make_grid()
  points = make_points(TOKEN_LAW, grid, make_losses(TOKEN_LAW, grid, 0.005)[0])
  [exact] = predict_largest(points, "cross_entropy")
  errors = {"cross_entropy": 0.1 * exact.loss}
  points[-1] = dataclasses.replace(points[-1], errors=errors)
  [rough] = predict_largest(points, "cross_entropy")
  assert rough.high - rough.low > 5 * (exact.high - exact.low)


@pytest.mark.parametrize(
  ("grid", "message"),
  [
    (
      make_grid(SIZES[:1], np.geomspace(1e9, 5e10, 9)),
      "1 different values of par",
    ),
    (
      make_grid(np.geomspace(5e7, 2e9, 9), TOKENS[:2]),
      "2 different values of tok",
    ),
    (make_grid(SIZES[:2], TOKENS[:2]), "at least 6"),
  ],
)
def test_too_few_points_are_refused(grid, message):
  points = make_points(TOKEN_LAW, grid, make_losses(TOKEN_LAW, grid, 0.01)[0])
  with pytest.raises(ValueError, match=message):
    fit_law(points, "cross_entropy")


def test_tokens_in_step_with_parameters_are_refused():
  """D = 20·N leaves A and B, a and b apart only by chance."""
  sizes = np.geomspace(5e7, 2e9, 12)
  grid = [sizes, 20 * sizes, np.ones(12)]
  truth = TOKEN_LAW.copy()
  truth[4] = truth[3]
  points = make_points(truth, grid, make_losses(truth, grid, 0.0)[0])
  with pytest.raises(ValueError, match=r"no full rank .* cannot be told apart"):
    fit_law(points, "cross_entropy")


def test_an_irreducible_loss_of_0_is_an_answer():
  """Small runs are too far from E to tell it from 0; the rest still holds."""
  truth = CHUNK_LAW.copy()
  truth[0] = 0
  grid = make_grid(chunk_sizes=(1, 2, 4))
  losses = make_losses(truth, grid, 0.005)[0] - 0.02  # best with E below 0
  found = fit_law(make_points(truth, grid, losses, "brier_lm"), "brier_lm")
  estimate, low, high = found.parameters()["E"]
  assert (estimate, low) == (0, 0)
  assert high < 0.3 * losses.min()
  np.testing.assert_allclose(found.losses(features(*grid)), losses, rtol=0.03)
  ends = np.quantile(
    found.sampled_losses(features(*grid)), (0.05, 0.95), axis=0
  )
  assert (ends[1] / ends[0]).max() < 1.1


def test_copies_of_runs_leave_the_law_as_it_is():
  """Seeds equal to the last bit measure no scatter; runs keep a weight."""
  grid = make_grid()
  losses = make_losses(TOKEN_LAW, grid, 0.005)[0]
  points = [
    dataclasses.replace(it, errors={"cross_entropy": 0.01})
    for it in make_points(TOKEN_LAW, grid, losses)
  ]
  copies = [
    dataclasses.replace(it, name=f"{it.name}-copy", seed=1) for it in points[:4]
  ]
  once = fit_law(points, "cross_entropy", num_bootstraps=20)
  twice = fit_law([*points, *copies], "cross_entropy", num_bootstraps=20)
  assert twice.seeds is not None and twice.run_scatter == once.run_scatter
  np.testing.assert_allclose(
    *(it.losses(features(*grid)) for it in (once, twice)), rtol=5e-3
  )
  assert twice.scatter == pytest.approx(once.scatter, rel=0.3)


def test_sizes_are_counted_within_one_k():
  """Models of one shape have other N at another K: that is still one size."""
  n, d, k = make_grid([1e8], np.geomspace(1e9, 5e10, 3), (1, 2, 4))
  grid = [n * k**0.1, d, k]
  points = make_points(CHUNK_LAW, grid, make_losses(CHUNK_LAW, grid, 0.0)[0])
  with pytest.raises(ValueError, match="1 different values of parameters at"):
    fit_law(points, "cross_entropy")


def test_loss_that_does_not_fall_is_refused():
  grid = make_grid()
  flat = 3 + 40 / grid[1] ** 0.2
  with pytest.raises(ValueError, match="do not identify the law"):
    fit_law(make_points(TOKEN_LAW, grid, flat), "cross_entropy")


def test_one_rule_says_which_data_sets_identify_a_law():
  """By limits, but for that of E, and by the condition."""
  grid = make_grid()
  found = estimate_laws(
    TOKEN_FORM,
    features(*grid),
    make_losses(TOKEN_LAW, grid, 0.005, 4),
    num_bootstraps=0,
  )
  assert is_identified(found).all()
  is_at_bound = found.is_at_bound.copy()
  is_at_bound[0, 0] = is_at_bound[1, 3] = True
  found = dataclasses.replace(
    found, is_at_bound=is_at_bound, condition=np.array([1, 1, 1e9, 1])
  )
  assert is_identified(found).tolist() == [True, False, False, True]


def test_a_form_whose_parts_are_not_counted_is_refused():
  grid = make_grid(chunk_sizes=(1, 2, 4))
  points = make_points(CHUNK_LAW, grid, make_losses(CHUNK_LAW, grid, 0.01)[0])
  with pytest.raises(ValueError, match="'run0' has no backbone_parameters"):
    fit_law(points, "cross_entropy", form=CHUNK_FORMS["backbone"])


def test_bad_input_is_refused():
  grid = make_grid()
  losses = make_losses(TOKEN_LAW, grid, 0.01)[0]
  points = make_points(TOKEN_LAW, grid, losses)
  other = make_points(CHUNK_LAW, [axis[:1] for axis in grid], losses)[0]
  with pytest.raises(ValueError, match="'run0'"):
    fit_law([*points, other])
  with pytest.raises(ValueError, match="2 families"):
    fit_law([*points[1:], other])
  with pytest.raises(ValueError, match="quantity 'bleu' is not known"):
    fit_law(points, "bleu")
  with pytest.raises(ValueError, match="0 points count and 16 are censored"):
    fit_law(points, "brier_lm")
