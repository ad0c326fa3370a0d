"""Tests calm_jax/scaling/best_chunk.py on laws whose best K is known."""

import dataclasses

import numpy as np
import pytest

from calm_jax.scaling.allocation import candidates_of
from calm_jax.scaling.best_chunk import (
  best_chunk_sizes,
  common_budgets,
  gap_changes,
  loss_curves,
)
from calm_jax.scaling.forms import CHUNK_FORMS, features
from calm_jax.scaling.law import Law
from calm_jax.scaling.points import Point

_SIZES, _TOKENS, _CHUNKS = (1e5, 1e6, 1e7), (1e6, 1e7, 1e8), (1, 2, 4)
_TRUTH = np.array([0.0, np.log(20), np.log(300), 0.2, 0.3, 0.6, 0.0])


def _loss(n, d, k):
  return 20 * k**0.6 / n**0.2 + 300 / d**0.3


def _law(fixed=0.0, samples=None):
  points = tuple(
    Point(
      name=f"{n}-{d}-{k}",
      family="calm",
      parameters=n,
      tokens=d,
      chunk_size=k,
      training_flops=6 * n * d / k,
      autoencoder_flops=fixed * k,
      autoencoder_users=9,
    )
    for n in _SIZES
    for d in _TOKENS
    for k in _CHUNKS
  )
  samples = np.stack([_TRUTH] * 4) if samples is None else samples
  return Law(
    *("calm", "cross_entropy", CHUNK_FORMS["coefficients"], points, ()),
    *(_TRUTH, samples, 1.0, 0.0),
  )


def test_curves_are_the_best_of_all_runs_up_to_a_budget():
  law = _law(fixed=1e11)
  budgets = np.geomspace(2e12, 5e13, 7)
  for curve in loss_curves(law, candidates_of(law), budgets):
    k = curve.chunk_size
    for budget, loss in zip(budgets, curve.losses, strict=True):
      tokens = [(budget - k * 1e11) / (6 * n / k) for n in _SIZES]
      expected = min(
        _loss(n, min(d, 1e8), k)
        for n, d in zip(_SIZES, tokens, strict=True)
        if d >= 1e6
      )
      assert loss == pytest.approx(expected)
    assert np.all(np.diff(curve.losses) < 0)


def test_too_small_a_budget_has_no_loss():
  law = _law()
  curves = loss_curves(law, candidates_of(law), np.array([2e11, 6e11]))
  assert [np.isfinite(curve.losses).tolist() for curve in curves] == [
    *([False, True], [False, True], [True, True])
  ]
  assert len(best_chunk_sizes(curves)) == 1


def test_best_k_is_that_of_the_lowest_curve():
  law = _law()
  models = candidates_of(law)
  budgets = common_budgets(models)
  np.testing.assert_allclose(budgets[[0, -1]], [6e11, 6e15 / 4])
  curves = loss_curves(law, models, budgets)
  for i, best in enumerate(best_chunk_sizes(curves)):
    losses = {curve.chunk_size: curve.losses[i] for curve in curves}
    assert best.chunk_size == min(losses, key=losses.get)
    assert best.low == best.high == best.chunk_size
    for k, (gap, low, high) in best.gaps.items():
      assert gap == pytest.approx(np.log(losses[k] / losses[1]))
      assert low == pytest.approx(gap) == high


def test_the_band_is_that_of_the_samples():
  """Samples with a free K, and others where it costs: all K are in the band."""
  free, dear = _TRUTH.copy(), _TRUTH.copy()
  free[5], dear[5] = 0.0, 2.0
  law = _law(samples=np.stack([free, dear] * 10))
  models = candidates_of(law)
  curves = loss_curves(law, models, np.array([1e13]))
  [best] = best_chunk_sizes(curves)
  assert (best.low, best.high) == (1, 4)
  assert best.shares == {1: 0.5, 2: 0.0, 4: 0.5}


def test_a_shared_autoencoder_costs_less():
  law = _law(fixed=9e11)
  whole, shared = candidates_of(law), candidates_of(law, is_shared=True)
  assert [it.fixed_flops for it in whole[:3]] == [9e11, 18e11, 36e11]
  assert [it.fixed_flops for it in shared[:3]] == [1e11, 2e11, 4e11]
  assert common_budgets(shared)[0] < common_budgets(whole)[0]


def test_k_trained_at_other_costs_do_not_compare():
  law = _law()
  models = [
    dataclasses.replace(it, fixed_flops=1e20) if it.chunk_size == 4 else it
    for it in candidates_of(law)
  ]
  with pytest.raises(
    ValueError, match="no budget lies within what was trained"
  ):
    common_budgets(models)


def test_features_of_models_count_their_bytes():
  law = _law()
  points = [dataclasses.replace(it, bytes_per_token=4.0) for it in law.points]
  law = dataclasses.replace(law, points=tuple(points))
  [curve, *_] = loss_curves(law, candidates_of(law), np.array([6e11]))
  expected = law.losses(features(1e5, 4e6, 1))
  np.testing.assert_allclose(curve.losses, expected)


def test_a_model_is_not_extrapolated_beyond_its_own_runs():
  """The largest K = 4 has no run of the largest budget, others have."""
  whole = _law()
  points = [
    it
    for it in whole.points
    if (it.parameters, it.tokens, it.chunk_size) != (1e7, 1e8, 4)
  ]
  law = dataclasses.replace(whole, points=tuple(points))
  models = candidates_of(law)
  assert [it.max_tokens for it in models if it.chunk_size == 4] == [
    *(1e8, 1e8, 1e7)
  ]
  # K = 4 ends where 1e6 parameters see 1e8 tokens, as 1e7 see 1e7.
  assert common_budgets(models)[-1] == pytest.approx(6e14 / 4)
  *_, curve = loss_curves(law, models, np.array([6e15 / 4]))
  expected = min(_loss(1e5, 1e8, 4), _loss(1e6, 1e8, 4), _loss(1e7, 1e7, 4))
  np.testing.assert_allclose(curve.losses, expected)


def test_changes_of_gaps_are_of_the_same_samples():
  """What moves both ends of a gap together is not in the band of its change."""
  dear = _TRUTH.copy()
  dear[5] += 0.05  # p: all gaps grow, at small budgets and large ones
  law = _law(samples=np.stack([_TRUTH, dear] * 10))
  models = candidates_of(law)
  curves = loss_curves(law, models, common_budgets(models))
  first, *_, last = best_chunk_sizes(curves)
  for k, (change, low, high) in gap_changes(curves).items():
    assert change == pytest.approx(last.gaps[k][0] - first.gaps[k][0])
    assert low <= change <= high
    ends = [gap[2] - gap[1] for gap in (first.gaps[k], last.gaps[k])]
    assert high - low < min(ends)
