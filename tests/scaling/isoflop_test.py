"""Tests calm_jax/scaling/isoflop.py on laws whose optimum is known."""

import numpy as np
import pytest

from calm_jax.scaling.isoflop import isoflop_parabolas
from calm_jax.scaling.points import Point

_E, _A, _B, _ALPHA, _BETA = 1.5, 400.0, 400.0, 0.34, 0.28


def _point(n, d):
  return Point(
    name=f"{n:.3g}-{d:.3g}",
    family="calm",
    parameters=n,
    tokens=d,
    training_flops=6 * n * d,
    scores={"cross_entropy": _E + _A / n**_ALPHA + _B / d**_BETA},
  )


def test_isoflop_finds_the_minimum():
  points = [
    _point(n, c / (6 * n))
    for c in np.geomspace(1e19, 1e21, 41)
    for n in np.geomspace(3e8, 3e9, 7)
  ]
  fits = isoflop_parabolas(points, "cross_entropy")
  assert len(fits) == 3
  for one in fits:
    exponent = _ALPHA + _BETA
    g = (_ALPHA * _A / (_BETA * _B)) ** (1 / exponent)
    expected = g * (one.training_flops / 6) ** (_BETA / exponent)
    if 4e8 < expected < 2e9:
      assert one.best_parameters == pytest.approx(expected, rel=0.1)
    x = np.log(one.parameters)
    parabola = np.polynomial.polynomial.polyval(x, one.coefficients)
    np.testing.assert_allclose(parabola, one.losses, rtol=1e-2)
  assert any(one.best_parameters for one in fits)


def test_a_maximum_is_no_best_size():
  """L = 3 − x² + x⁴/10, x = ln(N/1e8), has its largest value at x = 0."""
  points = [
    Point(
      name=f"{x}-{c}",
      family="calm",
      parameters=1e8 * np.exp(x),
      tokens=c,
      training_flops=c,
      scores={"cross_entropy": 3 - x**2 + x**4 / 10},
    )
    for x in (-1.0, -0.5, 0.0, 0.5, 1.0)
    for c in (1e18, 1e19)
  ]
  for fit in isoflop_parabolas(points, "cross_entropy"):
    assert fit.coefficients[2] < 0
    assert fit.best_parameters is None


def test_a_score_above_its_best_is_refused_by_name():
  points = [_point(n, 20 * n) for n in (1e7, 1e8, 1e9)]
  points[1].scores["cross_entropy"] = -0.2
  with pytest.raises(ValueError, match=r"point '1e\+08-2e\+09' has a cross"):
    isoflop_parabolas(points, "cross_entropy")


def test_isoflop_needs_three_sizes_at_one_budget():
  points = [_point(n, 20 * n * x) for n in (1e7, 1e9, 1e11) for x in (1, 2)]
  with pytest.raises(
    ValueError, match="3 sizes have points that count, and no"
  ):
    isoflop_parabolas(points, "cross_entropy")
