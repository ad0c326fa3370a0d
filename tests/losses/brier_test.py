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
_PARAMS = np.float32(np.random.default_rng(8).uniform(0.5, 2, _K * _V))
_SLOPE = np.random.default_rng(9).normal(size=(*_SHAPE, _K))


def _logits(params, latents):
  """A decoder that scales its latents to logits; the last word never wins."""
  scales = jnp.broadcast_to(params, latents.shape)
  logits = (scales * latents).reshape(*latents.shape[:-1], _K, _V)
  scored = jnp.broadcast_to(jnp.arange(_V) < _V - 1, logits.shape)
  return jnp.where(scored, logits, -jnp.inf)


def _scores(samples, labels, **options):
  return brier.brier_scores(
    _logits,
    _PARAMS,
    samples,
    labels,
    **options,
  )


def _inputs(seed=0):
  rng = np.random.default_rng(seed)
  samples = rng.normal(0, 2, (*_SHAPE, _N, _K * _V))
  labels = rng.integers(0, _V - 1, (*_SHAPE, _K), dtype=np.int32)
  labels[0, 0, 2] = _V - 1  # what no sample decodes to
  return samples, labels


def _odds(latents):
  """[..., K·V] → [..., K, V] in float64."""
  logits = (latents * np.float64(_PARAMS)).reshape(*latents.shape[:-1], _K, _V)
  odds = np.exp(logits)
  odds[..., -1] = 0
  return odds / odds.sum(axis=-1, keepdims=True)


def _definition(samples, labels):
  """Pair by pair and prefix by prefix, in float64: [2, 5, K]."""
  odds = _odds(samples.reshape(*_SHAPE, _N, _K * _V))
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


def _outcomes():
  """All chunks of two words, and the odds of each for three latents."""
  rng = np.random.default_rng(4)
  latents = rng.normal(0, 2, (3, _K * _V))
  odds = _odds(latents)
  chunks = np.array(list(itertools.product(range(_V), repeat=2)))
  each = odds[:, 0, chunks[:, 0]] * odds[:, 1, chunks[:, 1]]
  return latents, chunks, each


def test_its_mean_is_the_score_of_the_mixture_of_the_samples_odds():
  """2·Σ_y P(y)·Q(y) − Σ_y Q(y)², Q being that mixture, for n = 1 and 2."""
  latents, chunks, each = _outcomes()
  weights, text = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.4])
  labels = np.zeros((2, _K), np.int32)
  labels[:, :2] = (3, 4), (3, 5)
  pairs = list(itertools.product(range(3), range(3), range(2)))
  chances = [weights[i] * weights[j] * text[y] for i, j, y in pairs]
  samples = np.stack([latents[[i, j]] for i, j, _ in pairs])
  found = _scores(
    jnp.float32(samples), np.stack([labels[y] for *_, y in pairs])
  )
  mixture = weights @ each
  for n in (1, 2):
    right = [
      mixture[(chunks[:, :n] == label[:n]).all(axis=1)].sum()
      for label in labels
    ]
    prefixes = {tuple(it[:n]) for it in chunks}
    equal = sum(
      mixture[(chunks[:, :n] == prefix).all(axis=1)].sum() ** 2
      for prefix in prefixes
    )
    np.testing.assert_allclose(
      np.array(chances) @ np.asarray(found)[:, n - 1],
      2 * text @ right - equal,
      rtol=1e-5,
    )


def test_blocks_keep_no_copy_of_the_decoder():
  samples, labels = _inputs()
  samples, labels = (jnp.asarray(it) for it in (np.float32(samples), labels))
  one = 4 * _N * _K * _V  # bytes of the logits of a position

  def program(num_positions):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(brier, "_BLOCK_BYTES", num_positions * one)
      slope = jax.grad(lambda x: _scores(x, labels).sum())
      return str(jax.make_jaxpr(slope)(samples))

  for num_positions in (1, 2, 5):
    num_blocks = samples[..., 0, 0].size // num_positions
    text = program(num_positions)
    assert f"length={num_blocks}" in text
    assert f"f32[{num_blocks},{_K * _V}]" not in text


@pytest.mark.parametrize("size", [1, 8])
def test_a_chunk_may_have_any_size(size):
  rng = np.random.default_rng(5)
  logits = rng.normal(0, 2, (6, _N, size, _V))
  labels = rng.integers(0, _V, (6, size), dtype=np.int32)
  found = brier.brier_scores(
    lambda _, x: x.reshape(*x.shape[:-1], size, _V),
    None,
    jnp.float32(logits.reshape(6, _N, -1)),
    labels,
  )
  assert found.shape == (6, size)
  odds = np.exp(logits)
  odds /= odds.sum(axis=-1, keepdims=True)
  right = np.take_along_axis(odds, labels[:, None, :, None], -1)[..., 0]
  equal = np.einsum("bikv,bjkv->bijk", odds, odds).cumprod(axis=-1)
  pairs = equal.sum(axis=(1, 2)) - np.einsum("biik->bk", equal)
  expected = 2 * right.cumprod(-1).mean(axis=1) - pairs / (_N * (_N - 1))
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_far_from_any_label_has_a_finite_gradient():
  samples, labels = _inputs()
  scores = lambda x: _scores(x, labels).sum()
  slope = jax.jit(jax.grad(scores))(jnp.float32(1e4 * samples))
  assert np.isfinite(slope).all()


@pytest.mark.parametrize("implementation", ["reference", "auto"])
def test_nan_makes_score_and_gradient_nan(implementation):
  samples, labels = _inputs()
  samples[1, 2, 0, 0] = np.nan  # of the first token, which is in every prefix
  is_bad = np.zeros(_SHAPE, bool)
  is_bad[1, 2] = True

  def total(samples):
    scores = _scores(samples, labels, implementation=implementation)
    return scores.sum(), scores

  slope, found = jax.grad(total, has_aux=True)(jnp.float32(samples))
  np.testing.assert_array_equal(np.isnan(found), np.stack([is_bad] * _K, -1))
  np.testing.assert_array_equal(np.isnan(slope).any(axis=(2, 3)), is_bad)


def test_one_sample_is_refused():
  samples, labels = _inputs()
  with pytest.raises(AssertionError):
    _scores(jnp.float32(samples[..., :1, :]), labels)
