"""Accuracy, calibration and their errors."""

import numpy as np
import pytest
from scipy import special, stats

from calm_jax.evaluation.choices import (
  Answers,
  columns_of,
  paired_difference,
  reliability,
  summarise_choices,
)


def test_columns_are_those_of_three_questions_by_hand():
  scores = [np.log([0.7, 0.3]), np.log([0.2, 0.2]), np.array([-8.0, -4.0])]
  found = columns_of(
    Answers(
      scores,
      lengths=[(2, 1), (4, 4), (10, 2)],
      answers=[0, 1, 0],
      is_top=[True] * 3,
      priors=[np.log([0.9, 0.1]), np.zeros(2), np.array([-9.0, 0.0])],
    )
  )
  assert found["accuracy"].tolist() == [1, 0, 0]  # the first of equal ones
  # 0.36/2 is less than 1.20/1 nats a character; 8/10 is less than 4/2.
  assert found["accuracy_normalised"].tolist() == [1, 0, 1]
  assert found["accuracy_mutual"].tolist() == [0, 0, 1]
  share = special.expit(4.0)
  np.testing.assert_allclose(found["confidence"], [0.7, 0.5, share])
  np.testing.assert_allclose(
    found["choice_brier"], [2 * 0.3**2, 0.5, 2 * share**2]
  )
  np.testing.assert_allclose(
    found["choice_nats"], -np.log([0.7, 0.5, 1 - share])
  )
  np.testing.assert_allclose(found["log_score"], np.log([0.7, 0.2, np.exp(-8)]))


def test_a_single_candidate_is_right_where_it_is_drawn_most_often():
  found = columns_of(
    Answers([np.array([-1.0])] * 4, [(3,)] * 4, [0] * 4, [True, False] * 2)
  )
  assert found["accuracy"].tolist() == [1, 0, 1, 0]
  assert {*found} == {"accuracy", "log_score"}


def test_overconfidence_and_bins():
  columns = {
    "accuracy": np.array([1.0, 0, 1, 1]),
    "confidence": np.array([0.95, 0.91, 0.55, 1.0]),
  }
  found = summarise_choices(columns)
  assert found["overconfidence"] == pytest.approx(3.41 / 4 - 3 / 4)
  low, high = reliability(columns)
  assert low == {"num_items": 1, "confidence": 0.55, "accuracy": 1.0}
  assert high["num_items"] == 3 and high["accuracy"] == pytest.approx(2 / 3)


def _covers(value, stderr, truth, num_items):
  return abs(value - truth) <= stats.t.ppf(0.95, num_items - 1) * stderr


def test_errors_cover_in_85_of_100_data_sets_at_90_percent():
  """200 questions; two runs that find the same ones hard."""
  generator = np.random.default_rng(0)
  num_items, num_sets = 200, 100
  single = paired = 0
  for _ in range(num_sets):
    ease = generator.beta(2, 2, num_items)
    luck = generator.random((3, num_items))
    ours = (luck[0] < ease).astype(float)  # 0.5 on average
    shared = np.where(luck[1] < 0.5, luck[0], luck[2])
    theirs = (shared < 0.8 * ease).astype(float)  # 0.4
    found = summarise_choices({"accuracy": ours})
    single += _covers(
      found["accuracy"], found["accuracy_stderr"], 0.5, num_items
    )
    paired += _covers(*paired_difference(ours, theirs), 0.1, num_items)
  assert single >= 85 and paired >= 85


def test_paired_errors_are_smaller_where_runs_agree():
  generator = np.random.default_rng(0)
  ours = (generator.random(400) < 0.5).astype(float)
  theirs = np.where(generator.random(400) < 0.1, 1 - ours, ours)
  _, stderr = paired_difference(ours, theirs)
  apart = summarise_choices({"ours": ours, "theirs": theirs})
  alone = np.hypot(apart["ours_stderr"], apart["theirs_stderr"])
  assert stderr < 0.6 * alone
