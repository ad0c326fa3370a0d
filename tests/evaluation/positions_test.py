"""Tests evaluation/positions.py."""

import numpy as np
import pytest

from calm_jax.evaluation.positions import select_positions


@pytest.mark.parametrize(
  ("chunk_size", "first", "last", "num_tokens"),
  [
    (1, 1, 60, 4),
    (2, 2, 60, 4),
    (4, 4, 60, 4),
    (8, 8, 56, 8),
    (16, 16, 48, 16),
  ],
)
def test_paper_scores_after_every_chunk(chunk_size, first, last, num_tokens):
  found = select_positions("paper", row_length=64, chunk_size=chunk_size)
  text = (found.chunk_ids + 1) * chunk_size
  np.testing.assert_array_equal(text, np.arange(first, last + 1, chunk_size))
  assert found.num_tokens == num_tokens


def test_three_token_chunks_need_two_of_them():
  found = select_positions("paper", row_length=12, chunk_size=3)
  np.testing.assert_array_equal(found.chunk_ids, [0, 1])
  assert (found.num_chunks, found.num_tokens) == (2, 6)


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 8])
def test_grid_is_the_same_for_every_chunk_size(chunk_size):
  found = select_positions("grid:8", row_length=64, chunk_size=chunk_size)
  text = (found.chunk_ids + 1) * chunk_size
  np.testing.assert_array_equal(text, np.arange(8, 57, 8))
  mask = np.ones((2, 64), bool)
  mask[1, 17] = False  # text position 16 needs tokens 16 … 23
  scored = found.is_scored(mask.reshape(2, -1, chunk_size))
  assert scored[0].all()
  np.testing.assert_array_equal(scored[1], text != 16)


@pytest.mark.parametrize(
  ("protocol", "chunk_size", "row_length", "message"),
  [
    ("every", 4, 64, "grid:8"),
    ("grid:x", 4, 64, "grid:8"),
    ("grid:8", 3, 48, "grid:9"),
    ("grid:2", 2, 64, "at least 4"),
    ("grid:8", 16, 64, "grid:16"),
    ("paper", 4, 4, "longer rows"),
  ],
)
def test_refuses(protocol, chunk_size, row_length, message):
  with pytest.raises(ValueError, match=message):
    select_positions(protocol, row_length=row_length, chunk_size=chunk_size)
