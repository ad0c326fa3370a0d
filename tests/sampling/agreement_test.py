"""Tests sampling/agreement.py against distributions that are known."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from calm_jax import randomness
from calm_jax.sampling import agreement, batch
from tests.sampling.distributions import KNOWN, atoms_of, draw_chunks, powered

_ATOMS = {**KNOWN, "three": np.array([0.6, 0.3, 0.1])}


def _keys(num_rows, stream):
  rows = np.arange(num_rows, dtype=np.uint32)
  return randomness.sample_keys(randomness.stream_key(0, stream), rows)


@functools.partial(
  jax.jit,
  static_argnames=(
    "name",
    "whole",
    "num_candidates",
    "block_size",
    "min_slots",
    "max_slots",
    "order",
  ),
)
def _run(
  keys,
  choice_keys,
  *,
  name,
  whole,
  num_candidates,
  block_size=32,
  min_slots=1,
  max_slots=10**6,
  order="consecutive",
):
  def draw_fn(rows, sample_ids):
    draw = lambda key, ids: draw_chunks(_ATOMS[name], key[None], ids)[0]
    return jax.vmap(draw)(keys[rows], sample_ids)

  if order == "consecutive":
    tries = agreement.consecutive_tries(len(keys), num_candidates, whole)
  else:
    try_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(choice_keys)
    tries = agreement.random_tries(try_keys, num_candidates, whole)
  return agreement.sample_agreement(
    draw_fn,
    tries,
    choice_keys,
    batch.log_weights(1 / whole, num_candidates),
    block_size=block_size,
    min_slots=min_slots,
    max_slots=max_slots,
  )


def _found(num_rows=3000, **kwargs):
  return _run(_keys(num_rows, "draws"), _keys(num_rows, "choice"), **kwargs)


@pytest.mark.parametrize(("name", "whole"), [("zipf", 2), ("uniform", 2)])
def test_what_agrees_is_drawn_exactly(name, whole):
  found = _found(name=name, whole=whole, num_candidates=200)
  is_agreed = np.asarray(found.is_agreed)
  counts = np.bincount(atoms_of(found.tokens)[is_agreed], minlength=50)
  expected = is_agreed.sum() * powered(KNOWN[name], 1 / whole)
  is_small = expected < 5
  pooled = [
    np.append(x[~is_small], x[is_small].sum()) for x in (counts, expected)
  ]
  if not is_small.any():
    pooled = [x[:-1] for x in pooled]
  assert stats.chisquare(*pooled).pvalue > 1e-3
  share = is_agreed.mean()
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
    assert found.is_agreed[row] == bool(len(agreed))
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
  assert not found.is_agreed.all()
  assert found.is_agreed.any()


@pytest.mark.parametrize(
  ("whole", "num_candidates"), [(2, 4), (2, 7), (3, 5), (4, 5)]
)
def test_random_tries_are_the_batch_method(whole, num_candidates):
  """Alg. 2 by hand: every sequence of draws, and its weights C(c, n)."""
  p = _ATOMS["three"]
  expected = np.zeros(3)
  for sequence in itertools.product(range(3), repeat=num_candidates):
    counts = np.bincount(sequence, minlength=3)
    weights = np.array([math.comb(c, whole) for c in counts], float)
    if not weights.any():
      weights = (counts == counts.max()).astype(float)
    expected += math.prod(p[list(sequence)]) * weights / weights.sum()
  num_rows = 20_000
  found = _found(
    num_rows,
    name="three",
    whole=whole,
    num_candidates=num_candidates,
    order="random",
    block_size=3,
  )
  counts = np.bincount(atoms_of(found.tokens), minlength=3)
  assert stats.chisquare(counts, num_rows * expected).pvalue > 1e-3
  assert np.mean(found.is_agreed) > 0


def test_random_tries_need_few_candidates():
  """Half of the pairs agree: two tries on average, of at most two each."""
  p = _ATOMS["three"]
  found = _found(
    4000, name="three", whole=2, num_candidates=200, order="random"
  )
  agreed = np.sum(p**2)
  assert found.is_agreed.all()
  # As many tries as a coin of that probability takes; at 200 candidates they
  # hardly meet.
  num_tries = np.asarray(found.num_draws) / 2
  standard_error = np.sqrt(1 - agreed) / agreed / np.sqrt(4000)
  assert abs(num_tries.mean() - 1 / agreed) < 4 * standard_error + 0.02


@pytest.mark.parametrize("order", ["consecutive", "random"])
def test_neither_blocks_nor_other_rows_matter(order):
  kwargs = {"name": "zipf", "whole": 3, "num_candidates": 20, "order": order}
  whole = _found(20, **kwargs)
  blocks = _found(20, block_size=6, max_slots=3, **kwargs)
  many = _found(20, block_size=2, min_slots=70, **kwargs)  # 3 or 4 a row
  alone = _found(5, **kwargs)
  jax.tree.map(np.testing.assert_array_equal, blocks, whole)
  jax.tree.map(np.testing.assert_array_equal, many, whole)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a[:5], b), whole, alone
  )
