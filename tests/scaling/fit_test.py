"""Tests calm_jax/scaling/fit.py and law.py on laws that are known."""

import dataclasses

import numpy as np
import pytest

from calm_jax.scaling import fit, law
from calm_jax.scaling.points import Point

_SIZES = np.geomspace(5e7, 2e9, 4)
_TOKENS = np.geomspace(1e9, 5e10, 4)
#                     E, lnA, lnB, a, b: those of Hoffmann et al.
_TOKEN_LAW = np.array([1.69, np.log(406.4), np.log(410.7), 0.34, 0.28])
_CHUNK_LAW = np.array([1.65, np.log(300), np.log(330), 0.34, 0.28, 0.3, 0.5])


def _grid(sizes=_SIZES, tokens=_TOKENS, chunk_sizes=(1,)):
  mesh = np.meshgrid(sizes, tokens, np.array(chunk_sizes, float))
  return [axis.reshape(-1) for axis in mesh]


# A sweep as small as `sweep_k.py:tiny`, far above its E.
_SMALL_LAW = np.array([0.0, 1.78, 7.79, 0.1, 0.54, 0.44, -0.05])
_SMALL_GRID = _grid([1.8e5, 5e5, 1e6], [4.1e5, 9.2e5, 2e6], (1, 2, 4))


def _losses(truth, grid, noise, num_sets=1, seed=0):
  draws = np.random.default_rng(seed).standard_normal((num_sets, len(grid[0])))
  return np.exp(law.log_law(truth, *grid) + noise * draws)


def _points(truth, grid, losses, quantity="cross_entropy"):
  """Points whose loss in `quantity` is given."""
  points = []
  for i, (size, tokens, chunk_size) in enumerate(zip(*grid, strict=True)):
    loss = float(losses[i])
    scores, errors = {"cross_entropy": loss}, {}
    if quantity == "brier_lm":
      scores = {f"brier_{n}": float(np.exp(-loss)) for n in range(1, 5)}
      errors = {name: 1e-3 * score for name, score in scores.items()}
      scores["brier_lm"] = 100 * float(np.exp(-loss))
    points.append(
      Point(
        name=f"run{i}",
        family="token" if len(truth) == 5 else "calm",
        parameters=float(size),
        tokens=float(tokens),
        chunk_size=int(chunk_size),
        scores=scores,
        errors=errors,
      )
    )
  return points


def _num_covered(truth, grid, noise, num_trials):
  """In how many trials each parameter lies in its 90 % band."""
  found = law.fit(
    *grid,
    _losses(truth, grid, noise, num_trials),
    use_chunk_size=len(truth) > 5,
    num_bootstraps=200,
  )
  covered = np.zeros(len(truth), int)
  for estimate, samples in zip(found.estimate, found.samples, strict=True):
    samples = law.widen(estimate, samples, found.widening)
    low, high = np.quantile(samples, (0.05, 0.95), axis=0)
    covered += (low <= truth) & (truth <= high)
  return covered


@pytest.mark.parametrize(
  ("truth", "grid", "noise"),
  [
    (_TOKEN_LAW, _grid(), 0.01),
    (_CHUNK_LAW, _grid(_SIZES[:3], _TOKENS[:3], (1, 2, 4, 8)), 0.01),
    (_SMALL_LAW, _SMALL_GRID, 0.018),
  ],
  ids=["tokens", "chunks", "no-limit"],
)
def test_parameters_lie_in_their_bands(truth, grid, noise):
  """At least 85 of 100 trials, for every parameter."""
  assert _num_covered(truth, grid, noise, 100).min() >= 85


def test_exact_points_give_the_exact_law():
  grid = _grid(chunk_sizes=(1, 2, 4))
  found = law.fit(
    *grid,
    _losses(_CHUNK_LAW, grid, 0.0),
    use_chunk_size=True,
    num_bootstraps=2,
  )
  np.testing.assert_allclose(found.estimate[0], _CHUNK_LAW, rtol=1e-4)


def test_log_law_is_the_formula():
  e, a, b = 1.5, 20.0, 30.0
  parameters = np.array([e, *np.log([a, b]), 0.3, 0.2, 0.4, 0.6])
  n, d, k = np.array([1e6, 3e7]), np.array([1e8, 1e9]), np.array([1.0, 4.0])
  expected = e + a * k**0.4 / n**0.3 + b * k**0.6 / d**0.2
  np.testing.assert_allclose(
    law.log_law(parameters, n, d, k), np.log(expected), rtol=1e-12
  )


def test_jacobian_is_the_slope():
  x = np.log(np.stack(_grid(chunk_sizes=(1, 4))))
  x = x - x.mean(axis=1, keepdims=True)
  parameters = np.array([[0.1, -0.5, 0.3, 0.4, 0.2, 0.3, 0.5]])
  _, jacobian = law._evaluate(parameters, x)
  for i in range(7):
    step = 1e-6 * np.eye(7)[i]
    up, _ = law._evaluate(parameters + step, x)
    down, _ = law._evaluate(parameters - step, x)
    slope = (up - down)[0] / 2e-6
    np.testing.assert_allclose(jacobian[0, i], slope, atol=1e-8)


def test_one_broken_run_does_not_move_the_law():
  grid = _grid()
  losses = _losses(_TOKEN_LAW, grid, 0.002)
  clean = law.fit(*grid, losses, use_chunk_size=False, num_bootstraps=2)
  losses[0, 5] *= 1.5
  broken = law.fit(*grid, losses, use_chunk_size=False, num_bootstraps=2)
  shift = law.log_law(broken.estimate, *grid) - law.log_law(
    clean.estimate, *grid
  )
  assert np.abs(shift).max() < 0.01  # least squares moves by 0.05


def test_noisy_runs_count_less():
  grid = _grid()
  losses = _losses(_TOKEN_LAW, grid, 0.0)
  errors = np.zeros(16)
  losses[0, 3:6] *= 1.1
  errors[3:6] = 0.3 * losses[0, 3:6]
  found = law.fit(*grid, losses, errors, use_chunk_size=False, num_bootstraps=2)
  expected = law.log_law(_TOKEN_LAW, *grid)
  predicted = law.log_law(found.estimate, *grid)[0]
  assert np.abs(predicted - expected).max() < 0.002


def test_law_of_points_with_k():
  grid = _grid(chunk_sizes=(1, 2, 4))
  losses = _losses(_CHUNK_LAW, grid, 0.005)[0]
  points = _points(_CHUNK_LAW, grid, losses, "brier_lm")
  weak = Point(
    name="weak",
    family="calm",
    parameters=1e6,
    tokens=1e6,
    chunk_size=8,
    scores={f"brier_{n}": 0.01 for n in range(1, 5)} | {"brier_lm": 1.0},
    errors={f"brier_{n}": 0.01 for n in range(1, 5)},
  )
  found = fit.fit_law([*points, weak], "brier_lm")
  assert [point.name for point, _ in found.censored] == ["weak"]
  values = [_CHUNK_LAW[0], *np.exp(_CHUNK_LAW[1:3]), *_CHUNK_LAW[3:]]
  truth = dict(zip("EABabpq", values, strict=True))
  for name, (value, low, high) in found.parameters().items():
    assert low < value < high
    assert low < truth[name] < high, name
  predicted = found.losses(*grid)
  np.testing.assert_allclose(predicted, losses, rtol=0.03)
  scores = found.score(predicted)
  np.testing.assert_allclose(scores, 100 * np.exp(-predicted))


def test_largest_run_is_predicted_unseen():
  grid = _grid()
  losses = _losses(_TOKEN_LAW, grid, 0.005)[0]
  points = _points(_TOKEN_LAW, grid, losses)
  [prediction] = fit.predict_largest(points, "cross_entropy")
  assert prediction.point.name == points[-1].name
  assert prediction.is_inside
  # What the largest run says must not matter to what is predicted.
  lied = [*points[:-1], _points(_TOKEN_LAW, grid, 2 * losses)[-1]]
  [second] = fit.predict_largest(lied, "cross_entropy")
  assert second.predicted == prediction.predicted
  assert not second.is_inside


def test_a_prediction_allows_for_the_error_of_the_score():
  grid = _grid()
  points = _points(_TOKEN_LAW, grid, _losses(_TOKEN_LAW, grid, 0.005)[0])
  [exact] = fit.predict_largest(points, "cross_entropy")
  errors = {"cross_entropy": 0.1 * exact.loss}
  points[-1] = dataclasses.replace(points[-1], errors=errors)
  [rough] = fit.predict_largest(points, "cross_entropy")
  assert rough.high - rough.low > 5 * (exact.high - exact.low)


@pytest.mark.parametrize(
  ("grid", "message"),
  [
    (
      _grid(_SIZES[:1], np.geomspace(1e9, 5e10, 9)),
      "1 different values of par",
    ),
    (
      _grid(np.geomspace(5e7, 2e9, 9), _TOKENS[:2]),
      "2 different values of tok",
    ),
    (_grid(_SIZES[:2], _TOKENS[:2]), "at least 6"),
  ],
)
def test_too_few_points_are_refused(grid, message):
  points = _points(_TOKEN_LAW, grid, _losses(_TOKEN_LAW, grid, 0.01)[0])
  with pytest.raises(ValueError, match=message):
    fit.fit_law(points, "cross_entropy")


def test_tokens_in_step_with_parameters_are_refused():
  """D = 20·N leaves A and B, a and b apart only by chance."""
  sizes = np.geomspace(5e7, 2e9, 12)
  grid = [sizes, 20 * sizes, np.ones(12)]
  truth = _TOKEN_LAW.copy()
  truth[4] = truth[3]
  points = _points(truth, grid, _losses(truth, grid, 0.0)[0])
  with pytest.raises(ValueError, match=r"no full rank .* cannot be told apart"):
    fit.fit_law(points, "cross_entropy")


def test_an_irreducible_loss_of_0_is_an_answer():
  """Small runs are too far from E to tell it from 0; the rest still holds."""
  truth = _CHUNK_LAW.copy()
  truth[0] = 0
  grid = _grid(chunk_sizes=(1, 2, 4))
  losses = _losses(truth, grid, 0.005)[0] - 0.02  # best with E below 0
  found = fit.fit_law(_points(truth, grid, losses, "brier_lm"), "brier_lm")
  estimate, low, high = found.parameters()["E"]
  assert (estimate, low) == (0, 0)
  assert high < 0.3 * losses.min()
  np.testing.assert_allclose(found.losses(*grid), losses, rtol=0.03)
  ends = np.quantile(found.sampled_losses(*grid), (0.05, 0.95), axis=0)
  assert (ends[1] / ends[0]).max() < 1.1


def test_bands_are_widened_about_the_estimate():
  estimate = np.array([2.0, 1.0])
  samples = np.array([[2.5, 1.5], [1.0, 0.5]])
  wide = law.widen(estimate, samples, 3.0)
  np.testing.assert_allclose(wide, [[3.5, 2.5], [0, -0.5]])


def test_loss_that_does_not_fall_is_refused():
  grid = _grid()
  flat = 3 + 40 / grid[1] ** 0.2
  with pytest.raises(ValueError, match="do not identify the law"):
    fit.fit_law(_points(_TOKEN_LAW, grid, flat), "cross_entropy")


def test_bad_input_is_refused():
  grid = _grid()
  losses = _losses(_TOKEN_LAW, grid, 0.01)[0]
  points = _points(_TOKEN_LAW, grid, losses)
  other = _points(_CHUNK_LAW, [axis[:1] for axis in grid], losses)[0]
  with pytest.raises(ValueError, match="'run0'"):
    fit.fit_law([*points, other])
  with pytest.raises(ValueError, match="2 families"):
    fit.fit_law([*points[1:], other])
  with pytest.raises(ValueError, match="quantity is 'bleu'"):
    fit.fit_law(points, "bleu")
  with pytest.raises(ValueError, match="0 points count and 16 are censored"):
    fit.fit_law(points, "brier_lm")
