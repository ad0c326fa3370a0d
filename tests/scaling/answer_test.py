"""Tests calm_jax/scaling/answer.py and answer_words.py."""

import dataclasses
import re

import numpy as np
import pytest

from calm_jax.scaling import answer_words
from calm_jax.scaling.answer import find_answer

from . import studies


@pytest.fixture(scope="module")
def answer():
  """Of a sweep with three seeds of its smallest budget."""
  points = studies.sweep_points()
  for seed in (1, 2):
    points += [
      dataclasses.replace(point, name=f"{point.name}-{seed}", seed=seed)
      for point in studies.sweep_points(seed=seed)
      if point.tokens == 1e6
    ]
  return find_answer(points, num_bootstraps=50)


def test_the_true_law_answers(answer):
  """L = 0.6 + 9·K^0.3/N^0.2 + 30·K^0.4/D^0.25 at 6·N·D/K FLOPs."""
  assert answer.law.form.name == "coefficients"
  assert answer.refusals == ()
  for best in answer.best:
    losses = {}
    for k in (1, 2, 4):
      for n in np.geomspace(1e5, 1e7, 3):
        d = min(best.training_flops * k / (6 * n), 1e8)
        if d >= 1e6 * (1 - 1e-9):
          loss = 0.6 + 9 * k**0.3 / n**0.2 + 30 * k**0.4 / d**0.25
          losses[k] = min(loss, losses.get(k, np.inf))
    assert best.low <= min(losses, key=losses.get) <= best.high
    for k, (_, low, high) in best.gaps.items():
      truth = np.log(losses[k] / losses[1])
      assert low - 0.02 < truth < high + 0.02
  assert len(answer.token_gaps) == len(answer.best)
  assert all(
    curve.losses[0] > curve.losses[-1] for curve in (answer.curves().values())
  )


def test_every_number_of_a_sentence_has_its_band(answer):
  first, second, *_ = words = answer_words.sentences(answer)
  assert first.startswith("Best K for a budget")
  assert len(re.findall(r"K = \d \(\d to \d\)", first)) == first.count("K = ")
  for sentence in words[:4]:
    number = r"-?[\d.]+ % "
    band = r"\(-?[\d.]+ to -?[\d.]+\)"
    assert len(re.findall(number + band, sentence)) == sentence.count(" %") - (
      sentence.count("90 %")
    )
  assert second.count(" % (") == 4  # K = 2 and 4, two budgets


def test_seeds_are_measured_and_said(answer):
  scatter = answer.scatters["calm"]
  assert scatter.degrees == 3 * 3 * 2
  # As the study was made, to three standard errors of 18 degrees of freedom.
  assert scatter.value == pytest.approx(0.01, rel=3 / np.sqrt(2 * 18))
  words = " ".join(answer_words.sentences(answer))
  assert "CALM: another seed changes L by" in words
  assert "no two runs differ" not in words


def test_what_is_missing_is_said():
  points = [it for it in studies.sweep_points() if it.chunk_size == 1]
  found = find_answer(points)
  assert found.law is None and found.best == ()
  words = answer_words.missing(found)
  assert "No law of CALMs: K is compared where CALMs of several K" in words[0]
  assert "trained are K = 1." in words[1]
  assert "Best K" not in answer_words.markdown(found)


def test_markdown_holds_tables_and_sentences(answer):
  text = answer_words.markdown(answer)
  rows = [line for line in text.splitlines() if line.startswith("|")]
  header = answer_words.scores_table(answer)[0]
  assert rows[0] == f"| {' | '.join(header)} |"
  assert len(rows) == (2 + 4) + (2 + 3)
  lines = [line for line in text.splitlines() if not line.startswith("|")]
  assert max(map(len, lines)) <= 80
