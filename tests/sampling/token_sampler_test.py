"""Tests sampling/token_sampler.py and blocks of positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.model import TokenModel
from calm_jax.randomness import position_keys, stream_key
from calm_jax.sampling.blocks import map_blocks
from calm_jax.sampling.token_sampler import TokenSampler, _edges
from tests.sampling.tiny_runs import token_run


def _hidden(num):
  return 2 * jax.random.normal(jax.random.key(1), (num, 32))


def _probabilities(hidden, temperature=1.0):
  run = token_run()
  model = TokenModel(run.config.model)
  logits = model.apply({"params": run.params}, hidden, method="logits")
  logits = np.asarray(logits, np.float64) / temperature
  p = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return p / p.sum(axis=-1, keepdims=True)


def _draw(num_samples, **settings):
  """[1, n] tokens of one hidden state."""
  run = token_run()
  sampler = TokenSampler(run.config.model, run.params, **settings)
  key = stream_key(0, "test")
  keys = position_keys(key, np.zeros(1, np.uint32), np.zeros(1, np.uint32))
  ids = jnp.arange(num_samples, dtype=jnp.uint32)
  tokens = jax.jit(sampler.draw)(_hidden(1)[None], keys, ids)
  assert tokens.shape == (1, 1, num_samples, 1)
  return np.asarray(tokens)[0, 0, :, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_follow_the_probabilities(temperature):
  p = _probabilities(_hidden(1), temperature)[0]
  num = 20_000
  found = np.bincount(_draw(num, temperature=temperature), minlength=len(p))
  assert (found[p == 0] == 0).all()
  error = np.sqrt(num * p * (1 - p)) + 1
  assert (np.abs(found - num * p) < 5 * error).all()
  assert np.mean(np.abs(found - num * p) > 3 * error) < 0.02


def test_top_k_and_top_p_keep_the_most_likely():
  p = _probabilities(_hidden(1))[0]
  order = np.argsort(-p)
  assert set(_draw(3000, top_k=3)) == set(order[:3].tolist())
  reached = np.cumsum(p[order])
  kept = order[: int(np.searchsorted(reached, 0.5)) + 1]
  assert set(_draw(5000, top_p=0.5)) <= set(kept.tolist())
  assert set(_draw(5000, top_p=1e-6)) == {int(order[0])}


def test_all_tokens_are_all_tokens():
  """A sum of float32 reaches 1 before the least likely tokens."""
  run, hidden = token_run(), _hidden(6)
  p = jax.nn.softmax(
    TokenModel(run.config.model).apply(
      {"params": run.params}, hidden, method="logits"
    )
    / 0.1
  )

  def probabilities(hidden, labels, top_p):
    sampler = TokenSampler(
      run.config.model, run.params, temperature=0.1, top_p=top_p
    )
    return sampler.probabilities(hidden, labels)[0]

  least = jnp.argmin(jnp.where(p > 0, p, 1.0), axis=-1)
  found = jax.jit(probabilities)(hidden, least, 1.0)
  assert (found > 0).all()


def test_the_distribution_function_rises_where_a_token_can_be_drawn():
  generator = np.random.default_rng(0)
  p = generator.exponential(size=(2, 200_000)).astype(np.float32) ** 4
  p[:, generator.permutation(p.shape[1])[: p.shape[1] // 2]] = 0
  p /= p.sum(axis=-1, keepdims=True)
  steps = np.diff(np.asarray(jax.jit(_edges)(p)), axis=-1, prepend=0)
  assert (steps >= 0).all()
  assert (steps[p == 0] == 0).all()
  assert np.mean(steps[p > 1e-6] > 0) == 1


def test_probabilities():
  run = token_run()
  sampler = TokenSampler(run.config.model, run.params)
  hidden = _hidden(6)
  labels = np.array([3, 97, 5, 250, 257, 0])
  right, squares = jax.jit(sampler.probabilities)(hidden, labels)
  p = _probabilities(hidden)
  np.testing.assert_allclose(right, p[np.arange(6), labels], rtol=1e-4)
  np.testing.assert_allclose(squares, (p**2).sum(axis=-1), rtol=1e-4)


@pytest.mark.parametrize("block_size", [1, 4, 5, 6, 100])
def test_blocks_give_what_the_whole_gives(block_size):
  x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
  found = map_blocks(
    lambda block: {"sum": block[0].sum(axis=-1) + block[1]},
    block_size,
    (x, x[..., 0]),
    num_axes=2,
  )
  np.testing.assert_allclose(
    found["sum"], x.sum(axis=-1) + x[..., 0], rtol=1e-6
  )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_those_at_the_temperature(temperature):
  run, hidden = token_run(), _hidden(5)
  sampler = TokenSampler(run.config.model, run.params, temperature=temperature)
  p = _probabilities(hidden, temperature)
  labels = np.array([*p.argmax(axis=-1)[:2], 3, 4, 5])
  found, is_top = sampler.log_probabilities(hidden, jnp.asarray(labels))
  expected = np.log(p[np.arange(5), labels])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(is_top, labels == p.argmax(axis=-1))
