"""Tests calm_jax/layers/silu.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.layers.silu import silu, silu_gate
from tests.residuals import residuals


def _arrays(number):
  rng = np.random.default_rng(0)
  return 3 * rng.normal(size=(number, 4, 5, 8)).astype(np.float32)


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_values_and_gradients_are_those_of_float64():
  gate, x, slope = _arrays(3)
  wide, wide_x, wide_slope = (it.astype(np.float64) for it in (gate, x, slope))
  sigmoid = _sigmoid(wide)
  rate = sigmoid * (1 + wide * (1 - sigmoid))

  found, pullback = jax.vjp(silu, gate)
  np.testing.assert_allclose(found, wide * sigmoid, rtol=1e-5, atol=1e-6)
  expected = wide_slope * rate
  np.testing.assert_allclose(pullback(slope)[0], expected, rtol=1e-5, atol=1e-6)

  found, pullback = jax.vjp(silu_gate, gate, x)
  expected = wide * sigmoid * wide_x
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  of_gate, of_x = pullback(slope)
  expected = wide_slope * wide_x * rate
  np.testing.assert_allclose(of_gate, expected, rtol=1e-5, atol=1e-6)
  expected = wide_slope * wide * sigmoid
  np.testing.assert_allclose(of_x, expected, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_rounded_once():
  gate, x = (jnp.asarray(it, jnp.bfloat16) for it in _arrays(2))
  wide, wide_x = (it.astype(jnp.float32) for it in (gate, x))
  assert silu(gate).dtype == jnp.bfloat16
  expected = silu_gate(wide, wide_x).astype(jnp.bfloat16)
  assert (silu_gate(gate, x) == expected).all()


@pytest.mark.parametrize("function, number", [(silu, 1), (silu_gate, 2)])
def test_only_inputs_are_kept(function, number):
  arrays = jnp.asarray(_arrays(number), jnp.bfloat16)
  found = residuals(function, *arrays)
  assert found == [("bfloat16", (4, 5, 8))] * number


def test_forward_mode_works():
  gate, x, slope = _arrays(3)
  _, found = jax.jvp(lambda it: silu_gate(it, x), (gate,), (slope,))
  expected = jax.vjp(lambda it: silu_gate(it, x), gate)[1](slope)[0]
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
