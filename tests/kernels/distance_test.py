"""Tests calm_jax/kernels/distance.py: every line of its table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.kernels.distance import (
  DISTANCES,
  Distance,
  distances,
  values_and_weights,
)


@pytest.mark.parametrize("kind", list(DISTANCES))
def test_value_and_slope_are_those_of_the_definition_in_float64(kind):
  distance = Distance(kind, 1.5)
  directions = np.random.default_rng(0).normal(size=(25, 8))
  directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
  lengths = np.geomspace(1e-3, 1e3, 25)[:, None]
  difference = np.float32(lengths * directions)  # neither may lose its digits
  values, weights = values_and_weights(
    jnp.asarray(difference), distance, axis=-1
  )
  with jax.enable_x64(True):
    definition = lambda d: distances(jnp.sum(jnp.square(d)), distance)
    expected, slopes = jax.vmap(jax.value_and_grad(definition))(
      jnp.asarray(difference, jnp.float64)
    )
  np.testing.assert_allclose(values, expected, rtol=1e-5)
  found = np.float64(weights)[:, None] * difference
  # The definition's slope of 1 − k ends at the last digit of its 1.
  np.testing.assert_allclose(found, slopes, rtol=1e-5, atol=1e-15)


@pytest.mark.parametrize("kind", list(DISTANCES))
def test_points_that_coincide_neither_attract_nor_repel(kind):
  distance = Distance(kind, 1.5)
  for found in values_and_weights(jnp.zeros((2, 8)), distance, axis=-1):
    np.testing.assert_array_equal(found, 0.0)
  definition = lambda d: distances(jnp.sum(jnp.square(d)), distance)
  value, slope = jax.value_and_grad(definition)(jnp.zeros(8))
  assert value == 0.0 and not slope.any()


@pytest.mark.parametrize("kind", list(DISTANCES))
def test_the_distance_of_nan_is_nan(kind):
  distance = Distance(kind, 1.5)
  difference = jnp.ones((2, 8)).at[0, 3].set(jnp.nan)
  for found in values_and_weights(difference, distance, axis=-1):
    np.testing.assert_array_equal(np.isnan(found), [True, False])
  definition = lambda d: distances(jnp.sum(jnp.square(d)), distance)
  value, slope = jax.value_and_grad(definition)(difference[0])
  assert np.isnan(value) and np.isnan(slope).all()
