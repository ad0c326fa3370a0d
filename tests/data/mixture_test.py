"""Tests calm_jax/data/mixture.py: shares, order, sources that end."""

import collections
import sys

import numpy as np
import pytest

from calm_jax.data.mixture import MixtureMap

_ENDLESS = sys.maxsize


def _counts(pairs, num_sources):
  counts = collections.Counter(source for source, _ in pairs)
  return [counts[i] for i in range(num_sources)]


@pytest.mark.parametrize(
  "weights",
  [[1], [1, 1], [0.7, 0.2, 0.1], [3, 0.001], [1e-9, 1], [5, 1, 1, 9.5]],
)
def test_shares_hold_at_every_place(weights):
  mixture = MixtureMap([_ENDLESS] * len(weights), weights)
  assert len(mixture) > 10**17
  shares = np.array(weights) / sum(weights)
  pairs = [mixture[i] for i in range(2000)]
  for count in (1, 10, 777, 2000):
    found = _counts(pairs[:count], len(weights))
    # Rounding happens once for each join of two groups of sources.
    assert np.abs(found - count * shares).max() <= len(weights)


def test_rows_of_a_source_come_in_order_without_gaps():
  mixture = MixtureMap([_ENDLESS, 50, 400], [1, 2, 0.5])
  pairs = [mixture[i] for i in range(3000)]
  for source in range(3):
    numbers = [number for i, number in pairs if i == source]
    assert numbers == list(range(len(numbers)))
  assert _counts(pairs, 3)[1:] == [50, 400]


def test_finite_sources_are_given_whole():
  mixture = MixtureMap([7, 100, 1], [5, 1, 1])
  assert len(mixture) == 108
  pairs = [mixture[i] for i in range(108)]
  assert len(set(pairs)) == 108
  assert _counts(pairs, 3) == [7, 100, 1]


def test_the_others_go_on_with_their_weights():
  mixture = MixtureMap([10, _ENDLESS, _ENDLESS], [1, 1, 3])
  later = [mixture[i] for i in range(1000, 1400)]
  assert _counts(later, 3) == [0, 100, 300]


def test_a_position_needs_no_history():
  weights = [0.3, 0.3, 0.4]
  forward = MixtureMap([20, _ENDLESS, 35], weights)
  fresh = MixtureMap([20, _ENDLESS, 35], weights)
  assert fresh[999] == [forward[i] for i in range(1000)][999]
  assert fresh[10**15][1] > 10**14


def test_golden():
  """The order of a run must never change, or a restart changes its rows."""
  mixture = MixtureMap([_ENDLESS, 2], [2, 1])
  assert [mixture[i] for i in range(8)] == [
    (1, 0),
    (0, 0),
    (0, 1),
    (1, 1),
    (0, 2),
    (0, 3),
    (0, 4),
    (0, 5),
  ]
