"""Tests calm_jax/scaling/allocation.py on laws whose optimum is known."""

import numpy as np
import pytest

from calm_jax.scaling import allocation
from calm_jax.scaling.forms import CHUNK_FORMS, TOKEN_FORM
from calm_jax.scaling.law import Law
from calm_jax.scaling.points import Point

_E, _A, _B, _ALPHA, _BETA, _P, _Q = 1.5, 400.0, 400.0, 0.34, 0.28, 0.2, 0.3
_PARAMETERS = np.array([_E, np.log(_A), np.log(_B), _ALPHA, _BETA, _P, _Q])


def _loss(n, d, k=1.0):
  return _E + _A * k**_P / n**_ALPHA + _B * k**_Q / d**_BETA


def _point(n, d, k=1, **changes):
  values = {
    "name": f"{n:.3g}-{d:.3g}-{k}",
    "family": "calm",
    "parameters": n,
    "tokens": d,
    "chunk_size": k,
    "training_flops": 6 * n * d / k,
    "scores": {"cross_entropy": _loss(n, d, k)},
  }
  return Point(**values | changes)


def _law(chunk_sizes=(1, 8)):
  points = [_point(n, 1e10, k) for n in (1e6, 1e12) for k in chunk_sizes]
  use_k = len(chunk_sizes) > 1
  size = 7 if use_k else 5
  samples = np.stack(
    [_PARAMETERS[:size] + [0.01 * _E, 0, 0, 0, 0, 0, 0][:size]] * 4
  )
  return Law(
    "calm",
    "cross_entropy",
    CHUNK_FORMS["coefficients"] if use_k else TOKEN_FORM,
    tuple(points),
    (),
    _PARAMETERS[:size],
    samples,
    widening=1.0,
    scatter=0.0,
  )


def _candidates(chunk_sizes):
  return [
    allocation.Candidate(f"{n:.4g}-{k}", n, 6 * n / k, k)
    for n in np.geomspace(1e6, 1e12, 601)
    for k in chunk_sizes
  ]


def test_best_size_is_that_of_the_closed_form():
  """N* = G·(C/6)^(b/(a+b)), G = (aA / bB)^(1/(a+b)) at K = 1."""
  budget = 1e21
  best = allocation.rank_allocations(_law(), _candidates([1]), budget)[0]
  exponent = _ALPHA + _BETA
  g = (_ALPHA * _A / (_BETA * _B)) ** (1 / exponent)
  expected = g * (budget / 6) ** (_BETA / exponent)
  assert best.candidate.parameters == pytest.approx(expected, rel=0.03)
  assert best.tokens == pytest.approx(budget / (6 * best.candidate.parameters))
  assert best.loss == pytest.approx(
    _loss(best.candidate.parameters, best.tokens)
  )
  assert best.score == best.loss
  assert best.low == best.high == pytest.approx(best.loss + 0.01 * _E, rel=1e-3)
  assert best.win_share == 1


def test_best_chunk_size_is_the_lowest_of_all():
  candidates = _candidates([1, 2, 4, 8])
  budget = 1e19
  ranked = allocation.rank_allocations(_law(), candidates, budget)
  losses = [
    _loss(
      c.parameters, budget * c.chunk_size / (6 * c.parameters), c.chunk_size
    )
    for c in candidates
  ]
  assert ranked[0].candidate == candidates[int(np.argmin(losses))]
  assert [one.loss for one in ranked] == pytest.approx(sorted(losses))


def test_data_at_hand_caps_the_tokens():
  [best] = allocation.rank_allocations(
    _law(), [allocation.Candidate("a", 1e8, 6e8)], 1e21, max_tokens=1e9
  )
  assert best.tokens == 1e9
  assert best.is_extrapolated  # the points have 1e10 tokens


def test_ranking_refuses_what_the_law_does_not_know():
  candidate = allocation.Candidate("a", 1e8, 6e8, 4)
  with pytest.raises(ValueError, match="K = 1 alone and says nothing of K = 4"):
    allocation.rank_allocations(_law([1]), [candidate], 1e20)
  with pytest.raises(ValueError, match="at least one candidate"):
    allocation.rank_allocations(_law(), [], 1e20)


def test_the_autoencoder_is_paid_before_the_first_token():
  candidate = allocation.Candidate("a", 1e8, 6e8, fixed_flops=4e20)
  [best] = allocation.rank_allocations(_law(), [candidate], 1e21)
  assert best.tokens == pytest.approx(1e12)
  with pytest.raises(ValueError, match="do not pay for the autoencoder of 'a'"):
    allocation.rank_allocations(_law(), [candidate], 1e20)


def test_candidates_are_the_models_of_the_points():
  law = _law()
  [first, *_] = found = allocation.candidates_of(law)
  assert len(found) == 4
  assert first.training_flops_per_token == pytest.approx(6e6)
  assert first.bytes_per_token == 1  # of no point known
