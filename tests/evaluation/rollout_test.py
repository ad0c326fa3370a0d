"""Tests evaluation/rollout.py against enumeration on three tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import randomness
from calm_jax.evaluation import rollout
from calm_jax.evaluation.positions import select_positions
from tests.cached import cached
from tests.evaluation.tabular import Tabular

_TEXT = np.random.default_rng(3).integers(0, 3, 24)


_ROWS = 1500
_CHUNK_IDS = np.arange(24, dtype=np.uint32)


@cached
def _keys(stream):
  """Keys of every row and chunk, [R, 24]; drawn once for all tests."""
  rows = np.arange(_ROWS, dtype=np.uint32)
  key = randomness.stream_key(0, stream)
  return randomness.position_keys(key, rows, _CHUNK_IDS)


def _terms(model, *, protocol="paper", num_samples=2, num_paths=8, rows=_ROWS):
  """Terms of the same text in every row, with each row's own draws."""
  which = slice(rows) if isinstance(rows, int) else rows
  return _compiled(
    model,
    _keys("draw")[which],
    *(_keys(f"path{i}")[which] for i in range(3)),
    protocol=protocol,
    num_samples=num_samples,
    num_paths=num_paths,
  )


@functools.partial(
  jax.jit, static_argnames=("model", "protocol", "num_samples", "num_paths")
)
def _compiled(model, draw_keys, *path_keys, protocol, num_samples, num_paths):
  size = model.chunk_size
  tokens = jnp.asarray(_TEXT, jnp.int32).reshape(1, -1, size)
  tokens = jnp.broadcast_to(tokens, (len(draw_keys), *tokens.shape[1:]))
  positions = select_positions(protocol, row_length=24, chunk_size=size)
  hidden, context = model.read(tokens, jnp.zeros(tokens.shape[:2], jnp.int32))
  chunk_ids = rollout.needed_chunks(positions)
  sample_ids = jnp.arange(num_samples, dtype=jnp.uint32)
  drawn = model.draw(hidden[:, chunk_ids], draw_keys[:, chunk_ids], sample_ids)
  draws = rollout.Draws(chunk_ids, hidden[:, chunk_ids], drawn)
  path_keys = jnp.stack(path_keys, axis=-1)[:, positions.chunk_ids]
  return rollout.Terms(
    rollout.accuracy_terms(model, draws, tokens, positions),
    rollout.collision_terms(
      model, draws, context, path_keys, positions, num_paths=num_paths
    ),
  )


def _expected(model, positions):
  """Terms by enumeration, [P, 4] each."""
  accuracy, collision = [], []
  for chunk in positions.chunk_ids:
    start = (chunk + 1) * model.chunk_size
    past, future = _TEXT[:start], _TEXT[start:]
    four = model.distribution(past, 4)
    for n in range(1, 5):
      p = {}
      for sequence, weight in four.items():
        p[sequence[:n]] = p.get(sequence[:n], 0) + weight
      accuracy.append(p.get(tuple(future[:n].tolist()), 0.0))
      collision.append(sum(weight**2 for weight in p.values()))
  shape = (-1, 4)
  return np.reshape(accuracy, shape), np.reshape(collision, shape)


@pytest.mark.parametrize("num_samples", [2, 5])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 8])
def test_estimates_are_those_of_enumeration(chunk_size, num_samples):
  model = Tabular(chunk_size)
  positions = select_positions("paper", row_length=24, chunk_size=chunk_size)
  terms = _terms(model, num_samples=num_samples)
  _assert_unbiased(terms, _expected(model, positions))


@pytest.mark.parametrize("num_samples", [2, 5])
def test_token_models_follow_sampled_paths(num_samples):
  model = Tabular(1, is_token_model=True)
  positions = select_positions("grid:8", row_length=24, chunk_size=1)
  terms = _terms(model, num_samples=num_samples, protocol="grid:8")
  accuracy, collision = _expected(model, positions)
  # Without a draw: the probabilities themselves.
  expected = np.broadcast_to(accuracy, terms.accuracy.shape)
  np.testing.assert_allclose(terms.accuracy, expected, rtol=1e-5)
  np.testing.assert_allclose(
    terms.collision[..., 0],
    np.broadcast_to(collision[:, 0], terms.collision.shape[:2]),
    rtol=1e-5,
  )
  _assert_unbiased(terms, (accuracy, collision))


def _assert_unbiased(terms, expected):
  """Means over rows: the scores lie within 3 standard errors, and so do all
  but 3 % of their many parts."""
  for found, wanted in zip(terms, expected, strict=True):
    found = np.asarray(found, np.float64)
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    # What hardly ever happens may not have happened at all.
    error = np.maximum(error, np.sqrt(wanted / 2 / len(found)))
    deviation = (found.mean(axis=0) - wanted) / error
    assert np.abs(deviation).max() < 4.2
    assert np.mean(np.abs(deviation) > 3) < 0.03
  scores = 2 * np.asarray(terms.accuracy) - np.asarray(terms.collision)
  scores = scores.mean(axis=1)  # [R, 4]
  wanted = (2 * expected[0] - expected[1]).mean(axis=0)
  error = scores.std(axis=0, ddof=1) / np.sqrt(len(scores))
  assert (np.abs(scores.mean(axis=0) - wanted) < 3 * error + 1e-6).all()


@pytest.mark.parametrize("chunk_size", [2, 4])
def test_sixteen_samples_halve_the_noise(chunk_size):
  model = Tabular(chunk_size)
  noise = []
  for num_samples in (2, 16):
    terms = _terms(model, num_samples=num_samples, rows=400)
    scores = 2 * np.asarray(terms.accuracy) - np.asarray(terms.collision)
    noise.append(scores.mean(axis=1).std(axis=0))
  assert (noise[1] <= 0.45 * noise[0]).all()


@pytest.mark.parametrize("is_token_model", [False, True])
def test_neither_blocks_of_paths_nor_other_rows_matter(is_token_model):
  model = Tabular(1 if is_token_model else 2, is_token_model=is_token_model)
  whole = _terms(model, rows=3, num_samples=6, num_paths=200)
  alone = _terms(model, rows=slice(1, 2), num_samples=6, num_paths=5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[1:2], b, rtol=1e-6), whole, alone
  )
