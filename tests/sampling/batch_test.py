"""Tests sampling/batch.py against distributions that are known."""

import collections

import jax
import numpy as np
import pytest
from scipy import special

from calm_jax import randomness
from calm_jax.sampling import batch
from tests.sampling.distributions import (
  KNOWN,
  TEMPERATURES,
  atoms_of,
  draw_chunks,
  powered,
  zipf,
)


def _keys(num_rows, stream):
  rows = np.arange(num_rows, dtype=np.uint32)
  return randomness.sample_keys(randomness.stream_key(0, stream), rows)


def _chosen_share(p, temperature, num_candidates, num_sets):
  """How often each atom is chosen, averaged over sets of candidates."""
  weights = np.exp(batch.log_weights(temperature, num_candidates), dtype=float)
  generator = np.random.default_rng(0)
  total = np.zeros(len(p))
  for start in range(0, num_sets, 500):
    size = min(500, num_sets - start)
    counts = generator.multinomial(num_candidates, p, size=size)
    w = weights[counts]
    is_fallback = w.sum(axis=-1, keepdims=True) == 0
    w = np.where(is_fallback, counts == counts.max(axis=-1, keepdims=True), w)
    total += (w / w.sum(axis=-1, keepdims=True)).sum(axis=0)
  return total / num_sets


def _variation(p, temperature, num_candidates, num_sets):
  share = _chosen_share(p, temperature, num_candidates, num_sets)
  return 0.5 * np.abs(share - powered(p, temperature)).sum()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", KNOWN)
def test_two_thousand_candidates_are_close(name, temperature):
  assert _variation(KNOWN[name], temperature, 2000, 2000) < 0.02


@pytest.mark.parametrize("temperature", [0.7, 0.5, 0.4, 1 / 3, 0.21])
def test_more_candidates_are_closer(temperature):
  errors = [_variation(zipf(50), temperature, n, 4000) for n in (50, 200, 2000)]
  assert errors[0] > 1.5 * errors[1] > 2 * errors[2]


def test_no_jump_just_below_one():
  p = zipf(5000)
  at_one = _variation(p, 1.0, 200, 3000)
  below = _variation(p, 0.99, 200, 3000)
  assert abs(below - at_one) < 0.02


@pytest.mark.parametrize("temperature", [0.9, 0.7, 0.4, 0.21, 0.5])
def test_weights_are_those_of_the_binomial_series(temperature):
  num = 30
  n, a = int(1 / temperature + 1e-9), 1 / temperature - int(1 / temperature)
  series = np.zeros(num + 1)
  for c in range(n, num + 1):
    k = np.arange(num - c + 1)
    unbiased = special.binom(num - n - k, c - n) / special.binom(num, c)
    series[c] = np.sum(special.binom(a, k) * (-1.0) ** k * unbiased)
  found = np.exp(batch.log_weights(temperature, num))
  np.testing.assert_allclose(found, series / series[-1], rtol=2e-5, atol=1e-30)


def test_whole_exponents_give_the_papers_weights():
  found = np.exp(batch.log_weights(1 / 3, 40), dtype=float)
  expected = special.comb(np.arange(41), 3)
  np.testing.assert_allclose(found, expected / expected[-1], rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_counts_what_a_counter_counts(chunk_size):
  candidates = np.random.default_rng(0).integers(0, 3, (6, 40, chunk_size))
  chunks, counts = jax.jit(batch.count_chunks)(candidates)
  for row in range(6):
    expected = collections.Counter(map(tuple, candidates[row].tolist()))
    found = {
      tuple(chunk): int(count)
      for chunk, count in zip(chunks[row].tolist(), counts[row], strict=True)
      if count
    }
    assert found == expected


def test_chooses_by_the_weights_of_the_counts():
  num_rows, temperature = 8000, 0.4
  ids = np.arange(30, dtype=np.uint32)
  candidates = draw_chunks(KNOWN["zipf"], _keys(num_rows, "draws"), ids)
  log_weights = batch.log_weights(temperature, 30)
  found = jax.jit(batch.choose)(candidates, log_weights, _keys(num_rows, "c"))
  atoms = atoms_of(candidates)
  counts = np.stack([np.bincount(row, minlength=50) for row in atoms])
  w = np.exp(log_weights, dtype=float)[counts]
  assert not found.is_fallback.any()
  np.testing.assert_array_equal(found.num_distinct, (counts > 0).sum(axis=-1))
  w /= w.sum(axis=-1, keepdims=True)
  chosen = np.bincount(atoms_of(found.tokens), minlength=50)
  standard_error = np.sqrt((w * (1 - w)).sum(axis=0)) + 1e-9
  assert (np.abs(chosen - w.sum(axis=0)) < 4 * standard_error).all()


def test_falls_back_to_the_most_frequent():
  candidates = np.array([[[1, 2], [3, 4], [1, 2], [3, 4], [5, 6], [7, 8]]])
  rows = np.repeat(candidates, 400, axis=0)
  found = batch.choose(rows, batch.log_weights(0.25, 6), _keys(400, "c"))
  assert found.is_fallback.all()
  share = np.mean(np.asarray(found.tokens[:, 0]) == 1)
  assert set(np.unique(found.tokens[:, 0])) == {1, 3}
  assert abs(share - 0.5) < 4 * 0.5 / 20


def test_refuses_too_few_candidates():
  with pytest.raises(ValueError, match="at least 4"):
    batch.log_weights(0.25, 3)
