"""Tests the reference of benchmarks/evaluate.py against the package."""

import jax
import numpy as np
import pytest

from benchmarks.evaluate import score_in_turn
from benchmarks.random_model import random_batch
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from tests.benchmarks import tiny


@pytest.mark.parametrize("is_cached", [True, False])
def test_position_by_position_gives_the_same_sums(is_cached):
  model = tiny.model(2, 8)
  batch = random_batch(jax.random.key(1), 2, 8, model.config)
  settings = PredictionSettings(num_samples=5)
  hidden = np.arange(6)  # of 8 chunks, the last two have no four tokens after
  expected = prediction_columns(
    model.sampler_fn, model.params, [batch], settings
  )
  found = score_in_turn(model, batch, settings, hidden, is_cached=is_cached)
  assert found["collision_4"].sum() > 0
  for name, sums in found.items():
    np.testing.assert_allclose(sums, expected[name], rtol=1e-5, err_msg=name)
