"""Tests calm_jax/layers/rope.py."""

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.layers.rope import rope, rotation


def test_rotates_as_complex_numbers():
  x = np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype(np.float32)
  positions = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]], np.int32)
  pairs = x[..., :4].astype(np.float64) + 1j * x[..., 4:]
  angles = positions[..., None, None] * 100.0 ** (-np.arange(4) / 4)
  expected = pairs * np.exp(1j * angles)
  found = rope(jnp.asarray(x), rotation(jnp.asarray(positions), 8, theta=100))
  np.testing.assert_allclose(found[..., :4], expected.real, atol=1e-5)
  np.testing.assert_allclose(found[..., 4:], expected.imag, atol=1e-5)


def test_scores_depend_on_distance_only():
  keys = jax.random.split(jax.random.key(0))
  query, key = (jax.random.normal(k, (1, 1, 1, 16)) for k in keys)

  def score(i, j):
    angles = lambda place: rotation(jnp.array([[place]]), 16, theta=1e4)
    at = lambda x, place: rope(x, angles(place))
    return float(jnp.sum(at(query, i) * at(key, j)))

  np.testing.assert_allclose(score(9, 4), score(105, 100), rtol=1e-4)
  assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_keeps_the_dtype():
  x = jnp.ones((1, 2, 1, 4), jnp.bfloat16)
  angles = rotation(jnp.zeros((1, 2), jnp.int32), 4, theta=1e4)
  assert rope(x, angles).dtype == x.dtype
