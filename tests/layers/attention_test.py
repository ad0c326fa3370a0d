"""Tests calm_jax/layers/attention.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.layers.attention import causal_attention


def _inputs(rows=2, length=6, heads=4, groups=2, size=8):
  rng = np.random.default_rng(0)
  shapes = [(heads,), (groups,), (groups,)]
  return [
    rng.normal(size=(rows, length, *shape, size)).astype(np.float32)
    for shape in shapes
  ]


def _by_loops(query, key, value, segments):
  """Float64, one query head and position at a time."""
  query, key, value = (x.astype(np.float64) for x in (query, key, value))
  rows, length, heads, size = query.shape
  out = np.zeros_like(query)
  for b in range(rows):
    for h in range(heads):
      g = h * key.shape[2] // heads
      for i in range(length):
        allowed = [j for j in range(i + 1) if segments[b, i] == segments[b, j]]
        scores = key[b, allowed, g] @ query[b, i, h] / np.sqrt(size)
        weights = np.exp(scores - scores.max())
        out[b, i, h] = weights / weights.sum() @ value[b, allowed, g]
  return out


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_agrees_with_loops(groups, implementation):
  query, key, value = _inputs(groups=groups)
  one = np.zeros((2, 6), np.int32)
  two = np.array([[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1]], np.int32)
  arrays = [jnp.asarray(x) for x in (query, key, value)]
  for segments, given in ((one, None), (two, jnp.asarray(two))):
    found = causal_attention(*arrays, given, implementation=implementation)
    expected = _by_loops(query, key, value, segments)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_softmax_of_large_scores_is_finite():
  query, key, value = (1e3 * jnp.asarray(x) for x in _inputs())
  out, grad = jax.value_and_grad(
    lambda q: causal_attention(q, key, value).sum()
  )(query)
  assert jnp.isfinite(out) and jnp.isfinite(grad).all()
