"""Tests calm_jax/losses/mean.py."""

import jax.numpy as jnp
import numpy as np

from calm_jax.losses.mean import Mean, compute, masked_mean, merge


def test_merged_means_are_the_mean_of_all():
  rng = np.random.default_rng(0)
  values, mask = rng.normal(size=(6, 5)), rng.random((6, 5)) < 0.5
  parts = [
    {"x": masked_mean(jnp.float32(values[i]), jnp.array(mask[i]))}
    for i in range(6)
  ]
  total = {}
  for part in parts:
    total = merge(total, part)
  np.testing.assert_allclose(
    compute(total)["x"], values[mask].mean(), rtol=1e-5
  )


def test_what_is_masked_may_be_nan():
  values = jnp.array([1.0, jnp.nan, 3.0])
  found = masked_mean(values, jnp.array([True, False, True]))
  assert (float(found.total), float(found.count)) == (4.0, 2.0)


def test_a_mean_over_nothing_is_left_out():
  assert compute({"a": Mean(0.0, 0.0), "b": Mean(1.0, 2.0)}) == {"b": 0.5}


def test_names_of_one_side_only_stay():
  assert merge({"a": Mean(1.0, 1.0)}, {"b": Mean(2.0, 1.0)}) == {
    "a": Mean(1.0, 1.0),
    "b": Mean(2.0, 1.0),
  }
