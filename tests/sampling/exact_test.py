"""Tests sampling/exact.py against distributions that are known."""

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from calm_jax import randomness
from calm_jax.sampling import exact
from calm_jax.sampling.temperature import (
  Exponent,
  expected_draws,
  split_temperature,
)
from tests.sampling.distributions import (
  KNOWN,
  TEMPERATURES,
  atoms_of,
  draw_chunks,
  powered,
)

_TOO_MANY = 2e4  # expected draws from which on only the budget is tested


@functools.partial(
  jax.jit, static_argnames=("name", "num_rows", "max_draws", "block_size")
)
def _run(whole, fraction, *, name, num_rows, max_draws, block_size=64):
  rows = np.arange(num_rows, dtype=np.uint32)
  stream = functools.partial(randomness.stream_key, 0)
  keys = randomness.sample_keys(stream("draws"), rows)
  return exact.sample_exact(
    lambda sample_ids: draw_chunks(KNOWN[name], keys, sample_ids),
    randomness.sample_keys(stream("coins"), rows),
    Exponent(whole, fraction),
    max_draws=max_draws,
    block_size=block_size,
  )


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", KNOWN)
def test_follows_the_powered_distribution(name, temperature):
  p = KNOWN[name]
  exponent = split_temperature(temperature)
  expected = expected_draws(p, temperature)
  if expected > _TOO_MANY:
    found = _run(*exponent, name=name, num_rows=50, max_draws=3000)
    assert not found.is_accepted.all()
    assert found.num_draws.max() == 3000
    assert (found.num_draws[~found.is_accepted] == 3000).all()
    return
  num_rows = 2000 if expected < 2000 else 400
  found = _run(*exponent, name=name, num_rows=num_rows, max_draws=10**6)
  assert found.is_accepted.all()

  counts = np.bincount(atoms_of(found.tokens), minlength=len(p))
  wanted = num_rows * powered(p, temperature)
  is_small = wanted < 5
  pooled = [
    np.append(x[~is_small], x[is_small].sum()) for x in (counts, wanted)
  ]
  pooled = [x[:-1] if pooled[1][-1] < 5 else x for x in pooled]
  if len(pooled[1]) > 1:
    pooled[1] *= pooled[0].sum() / pooled[1].sum()
    assert stats.chisquare(*pooled).pvalue > 1e-3
  else:
    assert counts[is_small].sum() < 10  # at least 99.5 % on the one big cell

  standard_error = np.sqrt(_draw_variance(p, *exponent) / num_rows)
  assert abs(found.num_draws.mean() - expected) <= 3 * standard_error + 1e-6


def _draw_variance(p, whole, fraction):
  """Var of the draws, by attempts: each costs C draws and succeeds or not."""
  agreed = p**whole
  mean_cost = whole
  mean_square = whole**2
  mean_cost_if_failed = whole * (1 - agreed.sum())
  success = agreed.sum()
  if fraction > 0:
    i = np.arange(1, 200_001)
    alive = np.cumprod(np.append(1, 1 - fraction / i))[:-1]  # no coin before i
    for x, weight in zip(p, agreed, strict=True):
      reach = (1 - x) ** (i - 1) * alive  # draw i of the second stage is made
      reject = reach * (1 - x) * fraction / i
      accept = reach * x
      cost = whole + i
      mean_cost += weight * ((accept + reject) * i).sum()
      mean_square += weight * ((accept + reject) * (cost**2 - whole**2)).sum()
      mean_cost_if_failed += weight * (reject * cost).sum()
      success -= weight * reject.sum()
  mean = mean_cost / success
  second = (mean_square + 2 * mean_cost_if_failed * mean) / success
  return max(second - mean**2, 0.0)


def test_result_depends_neither_on_blocks_nor_on_other_rows():
  kwargs = {"name": "zipf", "max_draws": 1000}
  exponent = split_temperature(0.4)
  whole = _run(*exponent, num_rows=8, **kwargs)
  for block_size in (1, 7):
    blocks = _run(*exponent, num_rows=8, block_size=block_size, **kwargs)
    jax.tree.map(np.testing.assert_array_equal, blocks, whole)
  alone = _run(*exponent, num_rows=3, **kwargs)
  jax.tree.map(
    np.testing.assert_array_equal, alone, jax.tree.map(lambda x: x[:3], whole)
  )


def test_budget_is_counted_to_the_draw():
  exponent = split_temperature(0.5)
  kwargs = {"name": "zipf", "num_rows": 200}
  free = _run(*exponent, max_draws=10**6, **kwargs)
  tight = _run(*exponent, max_draws=10, **kwargs)
  is_early = np.asarray(free.num_draws) <= 10
  assert 0 < is_early.sum() < 200
  np.testing.assert_array_equal(tight.is_accepted, is_early)
  np.testing.assert_array_equal(tight.num_draws, np.minimum(free.num_draws, 10))
  np.testing.assert_array_equal(tight.tokens[is_early], free.tokens[is_early])
