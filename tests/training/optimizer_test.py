"""Tests calm_jax/training/optimizer.py against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.config import OptimizerConfig
from calm_jax.families import build_model, param_shapes
from calm_jax.training.optimizer import (
  decay_mask,
  make_optimizer,
  make_schedule,
)
from tests.training import tiny


def _rates(num_steps, **settings):
  schedule = make_schedule(OptimizerConfig(**settings), num_steps)
  return np.array([schedule(step) for step in range(num_steps)])


def test_warm_up_is_a_line_that_starts_above_zero():
  rates = _rates(20, learning_rate=2.0, num_warmup_steps=10)
  np.testing.assert_allclose(rates[:10], 0.2 * np.arange(1, 11), rtol=1e-6)
  np.testing.assert_array_equal(rates[10:], 2.0)


def test_no_warm_up_starts_at_the_peak():
  np.testing.assert_array_equal(
    _rates(3, learning_rate=0.5, num_warmup_steps=0), 0.5
  )


def test_cosine_falls_by_half_a_cosine_to_its_final_fraction():
  rates = _rates(
    50,
    learning_rate=1.0,
    schedule="cosine",
    num_warmup_steps=10,
    final_fraction=0.1,
  )
  angle = np.pi * np.arange(1, 41) / 40
  expected = 0.1 + 0.9 * (1 + np.cos(angle)) / 2
  np.testing.assert_allclose(rates[10:], expected, rtol=1e-5)
  np.testing.assert_allclose(rates[-1], 0.1, rtol=1e-5)


def test_wsd_is_flat_and_then_a_line():
  rates = _rates(
    50,
    learning_rate=1.0,
    schedule="wsd",
    num_warmup_steps=5,
    decay_fraction=0.2,
    final_fraction=0.5,
  )
  np.testing.assert_array_equal(rates[5:40], 1.0)
  np.testing.assert_allclose(rates[40:], 1 - 0.05 * np.arange(1, 11), rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.04])
def test_wsd_without_a_step_to_decay_in_stays_at_the_peak(share):
  rates = _rates(
    10,
    learning_rate=1.0,
    schedule="wsd",
    num_warmup_steps=2,
    decay_fraction=share,
  )
  np.testing.assert_array_equal(rates[1:], 1.0)


@pytest.mark.parametrize("name", ["b1", "b2", "muon_beta"])
def test_a_mean_that_would_never_move_is_refused(name):
  with pytest.raises(ValueError, match=f"{name} is 1"):
    OptimizerConfig(**{name: 1.0})


def test_a_run_shorter_than_its_warm_up_is_refused():
  settings = OptimizerConfig(schedule="cosine", num_warmup_steps=100)
  with pytest.raises(ValueError, match="num_warmup_steps is 100 and num_steps"):
    make_schedule(settings, 100)


@pytest.mark.parametrize("stage", tiny.STAGES)
def test_only_matrices_and_tables_decay(stage):
  shapes = param_shapes(build_model(tiny.experiment(stage).model))
  mask = jax.tree_util.tree_leaves_with_path(decay_mask(shapes))
  decayed = {str(path[-1].key) for path, is_decayed in mask if is_decayed}
  kept = {str(path[-1].key) for path, is_decayed in mask if not is_decayed}
  assert decayed == {"kernel", "embedding"}
  assert kept <= {"bias", "scale"} and "scale" in kept


def test_two_steps_are_adamw_with_clipping_in_float64():
  config = tiny.experiment("token")
  config.num_steps = 10
  config.optimizer = OptimizerConfig(
    learning_rate=0.1, num_warmup_steps=0, clip_norm=1.0, weight_decay=0.3
  )
  rng = np.random.default_rng(0)
  shapes = {"kernel": (3, 2), "bias": (2,)}
  params = {k: rng.normal(size=shape) for k, shape in shapes.items()}
  # The first gradient is clipped, the second is not.
  steps = [
    {k: scale * rng.normal(size=shape) for k, shape in shapes.items()}
    for scale in (5.0, 0.05)
  ]

  optimizer = make_optimizer(config, axes=None)
  to_float32 = lambda tree: jax.tree.map(jnp.float32, tree)
  found = to_float32(params)
  state = optimizer.init(found)
  for gradient in map(to_float32, steps):
    updates, state = optimizer.update(gradient, state, found)
    found = jax.tree.map(jnp.add, found, updates)

  first = {k: np.zeros(shape) for k, shape in shapes.items()}
  second = {k: np.zeros(shape) for k, shape in shapes.items()}
  for t, gradient in enumerate(steps, start=1):
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    for k, g in gradient.items():
      g = g * min(1, 1.0 / norm)
      first[k] = 0.9 * first[k] + 0.1 * g
      second[k] = 0.95 * second[k] + 0.05 * g**2
      change = (first[k] / (1 - 0.9**t)) / (
        np.sqrt(second[k] / (1 - 0.95**t)) + 1e-8
      )
      decay = 0.3 * params[k] if k == "kernel" else 0
      params[k] = params[k] - 0.1 * (change + decay)
  for k in shapes:
    np.testing.assert_allclose(found[k], params[k], rtol=1e-5)
