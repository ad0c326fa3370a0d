"""Tests the Brier score of decoded samples against float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.evaluation.brier import accuracy, agreeing_pairs, pair_share
from calm_jax.losses import brier
from tests.perturbation import relative_error

_SHAPE = (2, 5)  # positions
_N, _K, _V = 3, 4, 11
_SLOPE = np.random.default_rng(9).normal(size=(*_SHAPE, _K))


def _logits(params, latents):
  """A decoder whose latents are the logits, of which the last never wins."""
  logits = (latents + 0 * params[0]).reshape(*latents.shape[:-1], _K, _V)
  scored = jnp.broadcast_to(jnp.arange(_V) < _V - 1, logits.shape)
  return jnp.where(scored, logits, -jnp.inf)


def _scores(samples, labels, **options):
  return brier.brier_scores(
    _logits,
    jnp.ones(_K * _V),
    samples,
    labels,
    vocabulary_size=_V,
    **options,
  )


def _inputs(seed=0):
  rng = np.random.default_rng(seed)
  samples = rng.normal(0, 2, (*_SHAPE, _N, _K * _V))
  return samples, rng.integers(0, _V - 1, (*_SHAPE, _K), dtype=np.int32)


def _definition(samples, labels):
  """Pair by pair and prefix by prefix, in float64: [2, 5, K]."""
  logits = samples.reshape(*_SHAPE, _N, _K, _V)[..., : _V - 1]
  odds = np.exp(logits)
  odds /= odds.sum(axis=-1, keepdims=True)
  result = np.zeros((*_SHAPE, _K))
  for place in np.ndindex(_SHAPE):
    p, y = odds[place], labels[place]
    for n in range(1, _K + 1):
      right = [np.prod([p[i, k, y[k]] for k in range(n)]) for i in range(_N)]
      equal = [
        np.prod([p[i, k] @ p[j, k] for k in range(n)])
        for i, j in itertools.permutations(range(_N), 2)
      ]
      result[(*place, n - 1)] = 2 * np.mean(right) - np.mean(equal)
  return result


def _gradient(samples, labels):
  """Of Σ slope · Brier-n, by central differences in float64."""
  step = 1e-5
  result = np.zeros_like(samples)
  for i, z in itertools.product(range(_N), range(_K * _V)):
    ends = []
    for sign in (1, -1):
      moved = samples.copy()
      moved[..., i, z] += sign * step
      ends.append((_SLOPE * _definition(moved, labels)).sum(axis=-1))
    result[..., i, z] = (ends[0] - ends[1]) / (2 * step)
  return result


@pytest.mark.parametrize("block", ["reference", "whole", "several"])
def test_value_and_gradient_are_those_of_the_definition(monkeypatch, block):
  if block == "several":  # two positions in each, and a last one of padding
    monkeypatch.setattr(brier, "_BLOCK_BYTES", 2 * 4 * _N * _K * _V + 1)
  samples, labels = _inputs()

  @jax.jit
  def total(samples):
    name = "reference" if block == "reference" else "auto"
    scores = _scores(samples, labels, implementation=name)
    return jnp.sum(_SLOPE.astype(np.float32) * scores), scores

  (_, found), slope = jax.value_and_grad(total, has_aux=True)(
    jnp.float32(samples)
  )
  assert relative_error(found, _definition(samples, labels)) < 1e-5
  assert relative_error(slope, _gradient(samples, labels)) < 1e-5


def test_a_certain_decoder_gives_the_estimate_of_the_evaluation():
  rng = np.random.default_rng(3)
  tokens = rng.integers(0, 2, (*_SHAPE, _N, _K))
  labels = rng.integers(0, 2, (*_SHAPE, _K), dtype=np.int32)
  samples = 100 * np.eye(_V)[tokens].reshape(*_SHAPE, _N, _K * _V)
  found = _scores(jnp.float32(samples), labels)
  is_pair = np.broadcast_to(~np.eye(_N, dtype=bool), (*_SHAPE, _N, _N))
  collision = [pair_share(it) for it in agreeing_pairs(tokens, is_pair)]
  expected = 2 * accuracy(tokens, labels) - np.stack(collision, axis=-1)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_its_mean_is_the_score_of_what_samples_decode_to():
  """2·Σ_y P(y)·Q(y) − Σ_y Q(y)², Q being the mixture of the samples' odds."""
  rng = np.random.default_rng(4)
  latents = rng.normal(0, 2, (3, _K * _V))
  weights, text = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.4])
  labels = rng.integers(0, _V - 1, (2, _K), dtype=np.int32)
  labels[1, 0] = (labels[0, 0] + 1) % (_V - 1)
  pairs = list(itertools.product(range(3), range(3), range(2)))
  chances = [weights[i] * weights[j] * text[y] for i, j, y in pairs]
  samples = np.stack([latents[[i, j]] for i, j, _ in pairs])
  found = _scores(
    jnp.float32(samples), np.stack([labels[y] for *_, y in pairs])
  )
  logits = latents.reshape(3, _K, _V)[..., : _V - 1]
  odds = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
  first = weights @ odds[:, 0]  # Q of the first token
  p = np.zeros(_V - 1)
  np.add.at(p, labels[:, 0], text)
  expected = 2 * p @ first - first @ first
  np.testing.assert_allclose(
    np.array(chances) @ np.asarray(found)[:, 0], expected, rtol=1e-5
  )


def test_what_is_far_from_any_label_has_a_finite_gradient():
  samples, labels = _inputs()
  scores = lambda x: _scores(x, labels).sum()
  slope = jax.jit(jax.grad(scores))(jnp.float32(1e4 * samples))
  assert np.isfinite(slope).all()


def test_one_sample_is_refused():
  samples, labels = _inputs()
  with pytest.raises(AssertionError):
    _scores(jnp.float32(samples[..., :1, :]), labels)
