"""Tests sampling/hybrid.py against distributions that are known."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from calm_jax import randomness
from calm_jax.sampling import batch, hybrid
from tests.sampling.distributions import KNOWN, atoms_of, draw_chunks, powered


def _keys(num_rows, stream):
  rows = np.arange(num_rows, dtype=np.uint32)
  return randomness.sample_keys(randomness.stream_key(0, stream), rows)


@functools.partial(
  jax.jit,
  static_argnames=("name", "whole", "num_candidates", "block_size"),
)
def _run(keys, choice_keys, *, name, whole, num_candidates, block_size=32):
  return hybrid.sample_hybrid(
    functools.partial(draw_chunks, KNOWN[name], keys),
    choice_keys,
    batch.log_weights(1 / whole, num_candidates),
    whole=whole,
    num_candidates=num_candidates,
    block_size=block_size,
  )


def _found(num_rows=3000, **kwargs):
  return _run(_keys(num_rows, "draws"), _keys(num_rows, "choice"), **kwargs)


@pytest.mark.parametrize(("name", "whole"), [("zipf", 2), ("uniform", 2)])
def test_what_agrees_is_drawn_exactly(name, whole):
  found = _found(name=name, whole=whole, num_candidates=200)
  is_exact = np.asarray(found.is_exact)
  counts = np.bincount(atoms_of(found.tokens)[is_exact], minlength=50)
  expected = is_exact.sum() * powered(KNOWN[name], 1 / whole)
  is_small = expected < 5
  pooled = [
    np.append(x[~is_small], x[is_small].sum()) for x in (counts, expected)
  ]
  if not is_small.any():
    pooled = [x[:-1] for x in pooled]
  assert stats.chisquare(*pooled).pvalue > 1e-3
  share = is_exact.mean()
  wanted = 1 - (1 - np.sum(KNOWN[name] ** whole)) ** (200 // whole)
  assert abs(share - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 3000) + 1e-6


@pytest.mark.parametrize("num_candidates", [30, 31])
@pytest.mark.parametrize("whole", [2, 3])
def test_row_by_row(whole, num_candidates):
  num_rows = 60
  found = _found(
    num_rows, name="zipf", whole=whole, num_candidates=num_candidates
  )
  ids = np.arange(num_candidates, dtype=np.uint32)
  atoms = atoms_of(draw_chunks(KNOWN["zipf"], _keys(num_rows, "draws"), ids))
  for row in range(num_rows):
    trials = atoms[row, : num_candidates // whole * whole].reshape(-1, whole)
    agreed = np.flatnonzero((trials == trials[:, :1]).all(axis=-1))
    assert found.is_exact[row] == bool(len(agreed))
    chosen = atoms_of(found.tokens[row])
    if len(agreed):
      assert chosen == trials[agreed[0], 0]
      assert found.num_draws[row] == (agreed[0] + 1) * whole
    else:
      assert found.num_draws[row] == num_candidates
      most = np.bincount(atoms[row]).max()
      count = (atoms[row] == chosen).sum()
      assert count >= whole or count == most
      assert found.is_fallback[row] == (most < whole)
  assert not found.is_exact.all()
  assert found.is_exact.any()


def test_neither_blocks_nor_other_rows_matter():
  kwargs = {"name": "zipf", "whole": 3, "num_candidates": 20}
  whole = _found(20, **kwargs)
  blocks = _found(20, block_size=6, **kwargs)
  alone = _found(5, **kwargs)
  jax.tree.map(np.testing.assert_array_equal, blocks, whole)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[:5], b), whole, alone
  )
