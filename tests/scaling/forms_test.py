"""Tests calm_jax/scaling/forms.py against the formulas as they are written."""

import numpy as np
import pytest

from calm_jax.scaling.forms import CHUNK_FORMS, TOKEN_FORM, features

_N, _D, _K = np.array([1e6, 3e7]), np.array([1e8, 1e9]), np.array([1.0, 4.0])
_BACKBONE, _FROZEN = np.array([4e5, 2e7]), np.array([1e5, 3e5])
_X = features(_N, _D, _K, _BACKBONE, _FROZEN)
_FORMS = [TOKEN_FORM, *CHUNK_FORMS.values()]


@pytest.mark.parametrize(
  ("name", "exponents", "expected"),
  [
    (
      "coefficients",
      (0.3, 0.2, 0.4, 0.6),
      20 * _K**0.4 / _N**0.3 + 30 * _K**0.6 / _D**0.2,
    ),
    (
      "exponents",
      (0.3, 0.2, 0.1, -0.2),
      20 / _N ** (0.3 * _K**-0.1) + 30 / _D ** (0.2 * _K**0.2),
    ),
    (
      "backbone",
      (0.3, 0.2, 0.6),
      20 / (_N - _BACKBONE + _FROZEN) ** 0.3
      + 7 * _K**0.6 / _BACKBONE**0.3
      + 30 / _D**0.2,
    ),
  ],
)
def test_forms_are_their_formulas(name, exponents, expected):
  form = CHUNK_FORMS[name]
  coefficients = [20.0, 7.0, 30.0] if name == "backbone" else [20.0, 30.0]
  parameters = np.array([1.5, *np.log(coefficients), *exponents])
  assert len(form.names) == len(parameters)
  found = form.log_law(parameters, _X)
  np.testing.assert_allclose(found, np.log(1.5 + expected), rtol=1e-12)


@pytest.mark.parametrize("form", _FORMS, ids=lambda form: form.name)
def test_slopes_and_centre(form):
  rng = np.random.default_rng(0)
  centre = form.centre(_X)
  parameters = form.starts()[-1] + 0.1 * rng.uniform(size=len(form.names))
  _, slopes = form.evaluate(parameters[None], _X, centre)
  for i, step in enumerate(1e-6 * np.eye(len(form.names))):
    up, _ = form.evaluate((parameters + step)[None], _X, centre)
    down, _ = form.evaluate((parameters - step)[None], _X, centre)
    np.testing.assert_allclose(slopes[0, i], (up - down)[0] / 2e-6, atol=1e-8)
  # At the centre or as they stand in the law, parameters say the same.
  level = np.array([0.3])
  here, _ = form.evaluate(parameters[None], _X, centre)
  there = form.log_law(form.uncentred(parameters, centre, level), _X)
  np.testing.assert_allclose(there, here[0] + 0.3, rtol=1e-12)


def test_without_k_all_forms_of_k_are_alike():
  """At K = 1 powers and bends say nothing, so that p and u may be anything."""
  x = features(_N, _D, 1.0, _BACKBONE, _FROZEN)
  for name in ("coefficients", "exponents"):
    found = [
      CHUNK_FORMS[name].log_law(np.array([1.5, 3.0, 3.4, 0.3, 0.2, *of_k]), x)
      for of_k in ((0.0, 0.0), (0.4, -0.3))
    ]
    np.testing.assert_allclose(*found, rtol=1e-12)
