"""Tests sampling/compared.py against reading every token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.data.batch import close
from calm_jax.evaluation.brier import accuracy, agreeing_pairs, all_pairs
from calm_jax.sampling.compared import read_compared

_END_ID = 1


@functools.partial(jax.jit, static_argnames=("num_tokens", "closing_id"))
def _read(x, labels, *, num_tokens, closing_id):
  return read_compared(
    lambda x: x[:, 0], x, labels, num_tokens=num_tokens, closing_id=closing_id
  )


@pytest.mark.parametrize("closing_id", [None, _END_ID])
@pytest.mark.parametrize("num_samples", [2, 5])
@pytest.mark.parametrize(("chunk_size", "num_tokens"), [(4, 4), (6, 4), (1, 1)])
def test_prefixes_compare_as_whole_chunks_do(
  chunk_size, num_tokens, num_samples, closing_id
):
  generator = np.random.default_rng(0)
  draw = functools.partial(generator.choice, 4, p=(0.7, 0.1, 0.1, 0.1))
  whole = draw((200, num_samples, chunk_size)).astype(np.int32)
  labels = draw((200, chunk_size)).astype(np.int32)
  found = np.asarray(
    _read(
      whole[..., None], labels, num_tokens=num_tokens, closing_id=closing_id
    )
  )
  whole, labels = close(whole, closing_id), close(labels, closing_id)
  is_pair = np.broadcast_to(
    all_pairs(num_samples), (200, num_samples, num_samples)
  )
  compared = [
    (accuracy(it, labels[:, :num_tokens]), *agreeing_pairs(it, is_pair))
    for it in (jnp.asarray(x[..., :num_tokens]) for x in (found, whole))
  ]
  for one, other in zip(*compared, strict=True):
    assert np.mean(other) > 0
    np.testing.assert_array_equal(one, other)
  assert found.shape == whole.shape
  assert not found[..., num_tokens:].any()


def test_what_nobody_looks_at_is_not_read():
  """All first tokens differ, so no second one is wanted."""
  x = np.arange(2, 2 + 64).reshape(16, 2, 2).astype(np.int32)
  found = _read(
    x[..., None],
    np.zeros((16, 2), np.int32),
    num_tokens=2,
    closing_id=_END_ID,
  )
  np.testing.assert_array_equal(found[..., 0], x[..., 0])
  assert not found[..., 1].any()
