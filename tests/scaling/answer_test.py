"""Tests calm_jax/scaling/answer.py and answer_words.py."""

import dataclasses
import re

import numpy as np
import pytest

from calm_jax.scaling import answer_tables, answer_words
from calm_jax.scaling.answer import find_answer
from calm_jax.scaling.best_chunk import BestChunk
from calm_jax.scaling.seeds import SeedScatter

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
  first, second, third, *_ = words = answer_words.sentences(answer)
  assert len(re.findall(r"K = \d \(\d to \d\)", first)) == first.count("K = ")
  number = r"[\d.]+ % (?:higher|lower) \([\d.]+ to [\d.]+\)"
  none = r"not resolved \(-[\d.]+ to [\d.]+ %\)"
  for sentence in words[:6]:
    assert len(re.findall(f"{number}|{none}", sentence)) == (
      sentence.count(" %") - sentence.count("90 %")
    )
  assert len(re.findall(f"{number}|{none}", second)) == len(answer.best)
  assert len(re.findall(f"{number}|{none}", third)) == 4  # two K, two budgets


def _best(chunk_size, low, high, cost, gaps):
  shares = {1: 0.0, 2: 0.0, 4: 0.0}
  return BestChunk(cost, chunk_size, low, high, shares, (1.0, 0.9, 1.1), gaps)


@pytest.fixture
def worded(answer):
  """An answer whose numbers are given."""
  first = {2: (0.01, -0.02, 0.05), 4: (0.2, 0.1, 0.3)}
  last = {2: (0.1, 0.08, 0.12), 4: (-0.05, -0.1, -0.01)}
  return dataclasses.replace(
    answer,
    best=(_best(1, 1, 2, 1e12, first), _best(1, 1, 1, 1e13, last)),
    changes={2: (0.09, 0.05, 0.13), 4: (0.02, -0.01, 0.05)},
    token_gaps=((0.4, 0.3, 0.5), (0.2, 0.1, 0.3)),
  )


def test_the_answer_comes_first_and_in_words(worded):
  first, tokens, *_ = answer_words.sentences(worded)
  assert first.startswith(
    "One token a vector is best, and the token model is ahead of every CALM at"
    " equal cost."
  )
  assert "K = 1 (1 to 2) at 1e+12 and K = 1 (1 to 1) at 1e+13" in first
  assert "49.2 % higher (35.0 to 64.9) at 1e+12, 22.1 % higher" in tokens
  ahead = dataclasses.replace(worded, token_gaps=((-0.2, -0.3, -0.1),) * 2)
  assert (
    "the best CALM is ahead of the token" in (answer_words.sentences(ahead)[0])
  )
  mixed = dataclasses.replace(
    worded, token_gaps=((0.2, 0.1, 0.3), (0.1, -0.1, 0.3))
  )
  assert "or not resolved, at all" in answer_words.sentences(mixed)[0]


def test_a_band_with_0_resolves_nothing(worded):
  _, _, gaps, movement, *_ = answer_words.sentences(worded)
  assert gaps.endswith(
    "with K = 2 not resolved (-2.0 to 5.1 %) at 1e+12 training FLOPs and 10.5 %"
    " higher (8.3 to 12.7) at 1e+13; with K = 4 22.1 % higher (10.5 to 35.0) at"
    " 1e+12 training FLOPs and 4.9 % lower (1.0 to 9.5) at 1e+13."
  )
  # The gaps' own bands of K = 4 lie apart; their paired difference decides.
  assert movement == (
    "As the budget grows from 1e+12 to 1e+13 training FLOPs: K = 2 falls behind"
    " K = 1, the ratio of their L becoming 9.4 % higher (5.1 to 13.9); whether"
    " K = 4 falls behind K = 1 or catches up is not resolved; whether the best"
    " K moves is not resolved: the bands meet."
  )


def test_the_second_form_answers_too(answer):
  words = " ".join(answer_words.sentences(answer))
  assert answer.second is answer.candidates[1]
  assert [it.training_flops for it in answer.best_of_second] == [
    it.training_flops for it in answer.best
  ]
  assert f"second best, {answer.second.form.formula}, the best is K = " in words
  alone = dataclasses.replace(answer, candidates=answer.candidates[:1])
  assert "No second form is identified" in " ".join(
    answer_words.sentences(alone)
  )


def test_an_e_at_0_has_no_band(answer):
  law = answer.law
  estimate, samples = law.estimate.copy(), law.samples.copy()
  estimate[0], samples[:, 0] = 0, 0
  law = dataclasses.replace(law, estimate=estimate, samples=samples)
  words = answer_tables.parameters_words(law)
  assert words.startswith("E not told from 0, A = ")
  assert words.endswith(" The other bands are given E = 0.")
  assert answer_tables.parameters_table(law)[1][0][2] == "not told from 0"
  samples[:10, 0] = 0.5 / law.widening
  words = answer_tables.parameters_words(law)
  assert words.startswith("E not told from 0, at most 0.5, A =")
  assert "given E" not in words


def test_a_row_of_scores_is_of_one_size(answer):
  """The smallest K = 4 has no run of the largest budget."""
  points = [
    it
    for it in answer.points
    if (it.chunk_size, it.parameters, it.tokens) != (4, 1e5, 1e8)
  ]
  header, rows = answer_tables.scores_table(
    dataclasses.replace(answer, points=tuple(points))
  )
  _, whole = answer_tables.scores_table(answer)
  column = [title.endswith("K = 4") for title in header].index(True)
  assert rows[0][column] == ""
  assert [row[column] for row in rows[1:]] == [row[column] for row in whole[1:]]


def test_the_mean_of_four_seeds_has_half_the_error_of_one(answer):
  point = dataclasses.replace(
    answer.points[0], scores={"cross_entropy": 2.0}, errors={}
  )
  points = tuple(dataclasses.replace(point, seed=seed) for seed in range(4))
  scatter = SeedScatter(0.1, 0.05, 0.2, 3)  # of ln L, so 0.2 of L
  _, [[_, cell]] = answer_tables.scores_table(
    dataclasses.replace(
      answer,
      quantity="cross_entropy",
      points=points,
      scatters={point.family: scatter},
    )
  )
  assert cell == "2.00 ± 0.10"


def test_a_token_model_without_flops_leaves_the_best_k(answer):
  points = [
    dataclasses.replace(it, training_flops=0.0) if it.family == "token" else it
    for it in answer.points
  ]
  found = find_answer(points, num_bootstraps=10)
  assert found.best and found.best_shared and found.token_gaps == ()
  assert found.refusals == (
    "No comparison with the token model: its points have no training FLOPs;"
    " collect them again.",
  )


def test_a_shared_price_that_is_not_known_is_not_told(answer):
  points = [
    dataclasses.replace(it, autoencoder_flops=1e11)
    if it.family == "calm"
    else it
    for it in answer.points
  ]
  found = find_answer(points, num_bootstraps=10)
  assert found.best and found.best_shared == ()
  assert "the shared price is not known" in found.refusals[0]
  assert "shared by the models" not in answer_words.markdown(found)
  assert points[0].shared_training_flops == 0 < points[0].whole_training_flops


def test_copies_of_runs_are_not_called_seeds():
  points = studies.sweep_points()
  points += [
    dataclasses.replace(it, name=f"{it.name}-copy", seed=1) for it in points[:3]
  ]
  words = answer_words.missing(find_answer(points, num_bootstraps=10))
  assert any("CALM: runs that differ by their seed alone" in it for it in words)


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
  assert "a vector" not in answer_words.markdown(found)


def test_markdown_holds_tables_and_sentences(answer):
  text = answer_words.markdown(answer)
  rows = [line for line in text.splitlines() if line.startswith("|")]
  assert "a vector" in text[:80]
  assert "compared with that of the token model" in text[: text.index("|")]
  header = answer_tables.scores_table(answer)[0]
  assert rows[0] == f"| {' | '.join(header)} |"
  assert len(rows) == (2 + 4) + (2 + 3)
  lines = [line for line in text.splitlines() if not line.startswith("|")]
  assert max(map(len, lines)) <= 80
