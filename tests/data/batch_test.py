"""Tests calm_jax/data/batch.py against a row written out by hand."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.config import VocabularyConfig
from calm_jax.data.batch import (
  Row,
  chunk_targets,
  close,
  make_batch,
  random_fill,
)

_VOCABULARY = VocabularyConfig(size=12, begin_id=10, end_id=11)


def test_golden_row():
  """Fill, the end of one document, a whole one, the start of a third."""
  row = np.array([11, 11, 4, 5, 11, 10, 6, 7, 11, 10, 8], np.int32)
  batch = make_batch(
    [Row(row, num_fill=2, row_id=3)], _VOCABULARY, row_length=16, chunk_size=4
  )
  np.testing.assert_array_equal(
    batch.tokens,
    [[[11, 11, 4, 5], [11, 10, 6, 7], [11, 10, 8, 11], [11, 11, 11, 11]]],
  )
  np.testing.assert_array_equal(
    batch.token_mask.astype(int),
    # The end ids at 4 and 8 are text; fill, begin ids and padding are not.
    [[[0, 0, 1, 1], [1, 0, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]],
  )
  np.testing.assert_array_equal(batch.segment_ids, [[0, 1, 2, 2]])
  np.testing.assert_array_equal(batch.row_ids, [3])
  assert batch.targets is None
  dtypes = [array.dtype for array in batch[:4]]
  assert dtypes == [np.int32, np.bool_, np.int32, np.uint32]


def test_missing_rows_are_masked():
  batch = make_batch(
    [Row(np.array([1, 2], np.int32), 0, 5)],
    _VOCABULARY,
    row_length=2,
    chunk_size=1,
    batch_size=3,
  )
  assert batch.tokens.shape == (3, 2, 1) and batch.segment_ids.shape == (3, 2)
  assert batch.token_mask[0].all() and not batch.token_mask[1:].any()
  assert (batch.tokens[1:] == _VOCABULARY.end_id).all()


# Chunks as they are, and as targets; None: the chunk does not count.
_CLOSED = [
  ([11, 10, 6, 7], [11, 11, 11, 11]),  # the end id in each place
  ([4, 11, 10, 6], [4, 11, 11, 11]),
  ([4, 5, 11, 10], [4, 5, 11, 11]),
  ([4, 5, 6, 11], [4, 5, 6, 11]),
  ([4, 5, 6, 7], [4, 5, 6, 7]),
  ([11, 10, 11, 10], [11, 11, 11, 11]),  # an empty document behind it
  ([10, 4, 11, 10], None),  # a begin id in front
  ([10, 4, 5, 6], None),
]


def _ends():
  """The chunks in a row of their own each, behind one of plain text."""
  text = np.array([5, 6, 7, 8], np.int32)
  rows = [np.concatenate([text, chunk]) for chunk, _ in _CLOSED]
  rows.append(np.array([*text, 4, 11], np.int32))  # padding behind the end
  rows.append(np.array([11, 11, 4, 11, 10, 5, 6, 7], np.int32))  # fill
  targets = [target for _, target in _CLOSED] + [[4, 11, 11, 11], None]
  batch = make_batch(
    [Row(row, 2 * (i == 9), i) for i, row in enumerate(rows)],
    _VOCABULARY,
    row_length=8,
    chunk_size=4,
  )
  return batch, targets


@pytest.mark.parametrize("is_compiled", [False, True])
def test_an_end_closes_its_chunk(is_compiled):
  batch, targets = _ends()
  if is_compiled:
    on_device = jax.tree.map(jnp.asarray, batch)
    found = jax.jit(chunk_targets, static_argnums=1)(on_device, 11)
  else:
    found = chunk_targets(batch, 11)
    assert isinstance(found.tokens, np.ndarray)
  assert (found.tokens.dtype, found.mask.dtype) == (np.int32, np.bool_)
  counted = np.asarray(found.mask).all(axis=-1)
  for i, target in enumerate(targets):
    assert counted[i, 1] == (target is not None), i
    if target is not None:
      np.testing.assert_array_equal(found.tokens[i, 1], target)
  # The fill in front of a row is no end, and its chunk does not count.
  np.testing.assert_array_equal(found.tokens[9, 0], [11, 11, 4, 11])
  np.testing.assert_array_equal(counted[:, 0], np.arange(10) != 9)


def test_nothing_is_closed_unless_asked():
  batch, _ = _ends()
  found = chunk_targets(batch, None)
  assert found.tokens is batch.tokens and found.mask is batch.token_mask
  drawn = np.array([[11, 3, 11, 4], [2, 3, 4, 5], [2, 11, 3, 11]], np.int32)
  assert close(drawn, None) is drawn
  np.testing.assert_array_equal(
    close(drawn, 11), [[11] * 4, [2, 3, 4, 5], [2, 11, 11, 11]]
  )


def test_chunks_of_one_token_have_nothing_to_close():
  batch, _ = _ends()
  flat = batch._replace(
    tokens=batch.tokens.reshape(len(batch.tokens), -1, 1),
    token_mask=batch.token_mask.reshape(len(batch.tokens), -1, 1),
  )
  found = chunk_targets(flat, 11)
  np.testing.assert_array_equal(found.tokens, flat.tokens)
  np.testing.assert_array_equal(found.mask, flat.token_mask)


def test_random_fill_is_uniform_and_a_function_of_its_arguments():
  draws = [random_fill(3, i, 4) for i in range(4000)]
  counts = collections.Counter(draws)
  assert set(counts) == {0, 1, 2, 3}
  # Standard error of a count: sqrt(4000 · ¼ · ¾) = 27.
  assert all(abs(count - 1000) < 4 * 27 for count in counts.values())
  assert draws == [random_fill(3, i, 4) for i in range(4000)]
  assert draws != [random_fill(4, i, 4) for i in range(4000)]
  pairs = collections.Counter(itertools.pairwise(draws))
  assert min(pairs.values()) > 250 - 4 * 16  # neighbours are independent
  assert all(random_fill(3, i, 1) == 0 for i in range(10))


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_random_fill_golden(seed):
  """The fill of a run must never change, or a restart changes its rows."""
  golden = {0: [1, 6, 6, 1, 1], -1: [0, 2, 0, 6, 3], 2**40: [5, 5, 4, 4, 1]}
  assert [random_fill(seed, i, 7) for i in range(5)] == golden[seed]
