"""Entropy and distinct n-grams by hand."""

import numpy as np
import pytest

from calm_jax.evaluation.diversity import diversity


def test_of_two_sequences_by_hand():
  found = diversity([[1, 2, 1, 2], [3]])
  assert found["unigram_entropy"] == pytest.approx(
    -2 * 0.4 * np.log(0.4) - 0.2 * np.log(0.2)
  )
  assert found["distinct_1"] == 3 / 5
  assert found["distinct_2"] == 2 / 3  # 12, 21, 12
  assert found["distinct_3"] == 1
  assert found["distinct_4"] == 1


def test_repetition_has_no_entropy_and_nothing_has_no_ngrams():
  found = diversity([[5] * 100])
  assert found["unigram_entropy"] == 0 and found["distinct_4"] == 1 / 97
  assert diversity([[5]])["distinct_2"] == 0
