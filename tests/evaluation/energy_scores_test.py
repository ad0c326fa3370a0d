"""The score of the first n samples against a slow float64 version."""

import numpy as np
import pytest

from calm_jax.evaluation.energy_scores import energy_scores
from calm_jax.kernels.distance import Distance


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_every_number_of_samples_has_the_mean_of_its_pairs(alpha):
  generator = np.random.default_rng(0)
  samples, targets = generator.normal(size=(2, 3, 5, 4))
  samples[0, 1] = samples[0, 0]  # two samples that coincide
  samples[1], targets[1] = samples[1] + 100, targets[1] + 100
  found = energy_scores(
    np.float32(samples), np.float32(targets), Distance("energy", alpha)
  )
  assert np.isnan(found[:, 0]).all()

  def between(a, b):
    return np.linalg.norm(a - b) ** alpha

  for row, (x, y) in enumerate(zip(samples, targets, strict=True)):
    for n in range(2, len(x) + 1):
      pairs = [(i, k) for i in range(n) for k in range(n) if i != k]
      expected = np.mean(
        [2 * between(x[i], y[k]) - between(x[i], x[k]) for i, k in pairs]
      )
      np.testing.assert_allclose(found[row, n - 1], expected, rtol=1e-3)


@pytest.mark.parametrize("name", ["samples", "targets"])
def test_nan_has_no_score(name):
  arrays = dict.fromkeys(["samples", "targets"], np.eye(3, 4, dtype=np.float32))
  arrays[name] = np.full_like(arrays[name], np.nan)
  found = energy_scores(**arrays, distance=Distance("energy", 1.0))
  assert np.isnan(found).all()
