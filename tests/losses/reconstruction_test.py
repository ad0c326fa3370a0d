"""Tests calm_jax/losses/reconstruction.py against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.losses import reconstruction


def test_divergence_matches_the_formula():
  mean = np.random.default_rng(0).normal(size=(5, 8))
  log_std = np.random.default_rng(1).normal(size=(5, 8))
  expected = 0.5 * (mean**2 + np.exp(2 * log_std) - 1 - 2 * log_std)
  actual = reconstruction.kl_divergence(jnp.float32(mean), jnp.float32(log_std))
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_divergence_of_the_prior_is_zero_and_positive_beside_it():
  assert reconstruction.kl_divergence(jnp.zeros(1), jnp.zeros(1))[0] == 0
  # ½(e^{2s} − 1 − 2s) ≈ s², far below the rounding of 1.
  beside = reconstruction.kl_divergence(jnp.zeros(1), jnp.full(1, 1e-3))[0]
  np.testing.assert_allclose(beside, 1e-6, rtol=2e-3)


def test_below_the_floor_the_cost_is_constant():
  mean = jnp.array([0.1, 2.0])  # KL 0.005 and 2
  zeros = jnp.zeros(2)
  cost, slope = jax.value_and_grad(reconstruction.clipped_kl)(mean, zeros, 0.5)
  np.testing.assert_allclose(cost, 2.5, rtol=1e-6)
  np.testing.assert_allclose(slope, [0.0, 2.0], rtol=1e-6)
