"""Tests sampling/temperature.py."""

import numpy as np
import pytest

from calm_jax.sampling.temperature import expected_draws, split_temperature


@pytest.mark.parametrize(
  ("temperature", "whole", "fraction"),
  [
    (1, 1, 0),
    (0.5, 2, 0),
    (1 / 3, 3, 0),
    (0.333, 3, 0),
    (0.9999999, 1, 0),
    (1 / 7 + 1e-9, 7, 0),
    (1 / 7 - 1e-9, 7, 0),
    (0.4, 2, 0.5),
    (0.99, 1, 1 / 99),
    (0.8, 1, 0.25),
  ],
)
def test_splits(temperature, whole, fraction):
  found = split_temperature(temperature)
  assert found.whole == whole
  assert found.fraction == pytest.approx(fraction, abs=1e-12)


@pytest.mark.parametrize("temperature", [0, -1, 1.01, float("nan")])
def test_refuses_what_is_not_in_the_unit_interval(temperature):
  with pytest.raises(ValueError, match="0 < temperature <= 1"):
    split_temperature(temperature)


@pytest.mark.parametrize("temperature", [1e-310, 1e-12, 1 / 2**31])
def test_refuses_what_no_count_can_reach(temperature):
  with pytest.raises(ValueError, match=r"below 2\*\*31"):
    split_temperature(temperature)


def test_expected_draws_in_closed_form():
  assert expected_draws(np.full(50, 1 / 50), 0.5) == pytest.approx(100)
  # Σ P^{1/T} = 8^{-1.5}, Σ P^{1/T-1} = 8^{-0.5}
  assert expected_draws(np.full(8, 1 / 8), 0.4) == pytest.approx(
    (2 + 8**-0.5) * 8**1.5
  )
  # Next to T = 1, but not on it, about as many as there are chunks.
  assert expected_draws(np.full(1000, 1e-3), 0.99) > 900
  assert expected_draws(np.full(1000, 1e-3), 0.9999) == pytest.approx(1)
  # A chunk that never occurs costs nothing.
  assert expected_draws(np.array([1.0, 0.0]), 0.4) == pytest.approx(3)
