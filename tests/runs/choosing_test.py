"""Questions answered by tiny runs."""

import dataclasses

import jax
import numpy as np
import pytest

from calm_jax.config import MeshConfig
from calm_jax.data.choice_forms import Item
from calm_jax.data.choice_items import Task
from calm_jax.evaluation import likelihood
from calm_jax.evaluation.chunk_terms import joined
from calm_jax.model import TokenModel
from calm_jax.runs.choosing import choose_run
from calm_jax.runs.text_scorer import ChoiceSettings, TextScorer
from calm_jax.training import sharding
from tests.cached import cached
from tests.sampling.tiny_runs import (
  autoencoder_run,
  calm_run,
  on_mesh,
  token_run,
)

_SETTINGS = ChoiceSettings(num_samples=4)
_TASK = Task(
  "plain",
  [
    Item(
      ("word " * i,) * 3, (" one's", " twelve", " of them"), (5, 6, 7), i % 3
    )
    for i in range(4)
  ],
)


@cached
def _chosen(batch_size=3):
  return choose_run(calm_run(), _TASK, _SETTINGS, batch_size=batch_size)


def _scores(result):
  return np.array([item["scores"] for item in result["items"]])


def test_token_runs_are_scored_by_their_likelihood():
  run = token_run(num_chunks=64)
  scorer = TextScorer(run, ChoiceSettings())
  context, text = "before it", " stands é"
  row = scorer.encode(context, text)
  (terms,) = scorer.terms([row])
  model = TokenModel(run.config.model)
  params = {"params": run.params}
  hidden = model.apply(params, row.tokens[None], method="hidden")
  logits = model.apply(params, hidden, method="logits")[0]
  log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
  ids = run.tokenizer.encode(text)
  first = 1 + len(run.tokenizer.encode(context))
  places = np.arange(first - 1, first - 1 + len(ids))
  expected = log_p[places, ids]
  np.testing.assert_allclose(terms.log_probability, expected, rtol=1e-5)
  found = scorer.log_scores(joined([terms, terms]))
  np.testing.assert_allclose(found, [expected.sum()] * 2, rtol=1e-5)
  is_top = log_p[places].argmax(axis=-1) == ids
  np.testing.assert_array_equal(terms.is_top, is_top)


def test_results_have_every_estimate_and_its_number_of_samples():
  result = _chosen()
  assert result["estimate"] == "energy" and result["num_items"] == 4
  assert {*result["estimates"]} == {*likelihood.ESTIMATES}
  for name, fewest in (("kernel", 1), ("energy", 2)):
    values = result["estimates"][name]
    rows = values["by_num_samples"]
    counts = [row["num_samples"] for row in rows]
    assert counts == [it for it in (1, 2, 4) if it >= fewest]
    assert rows[-1]["accuracy"] == values["accuracy"]
    assert [row["accuracy"] + row["accuracy_lost"] for row in rows] == (
      pytest.approx([values["accuracy"]] * len(rows))
    )
  assert "confidence" not in result  # of the energy score, no probability
  assert "confidence" in result["estimates"]["kernel"]
  assert result["accuracy"] == result["estimates"]["energy"]["accuracy"]
  assert result["chance"] == pytest.approx(1 / 3)


def test_scores_do_not_depend_on_batches():
  expected = _scores(_chosen())
  found = _scores(_chosen(batch_size=7))
  np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_scores_do_not_depend_on_the_mesh():
  expected = _scores(_chosen())
  mesh = sharding.make_mesh(MeshConfig(data=8))
  run = on_mesh(calm_run(), mesh)
  found = _scores(choose_run(run, _TASK, _SETTINGS, batch_size=1))
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_differences_are_of_the_same_questions():
  result = _chosen()
  again = choose_run(calm_run(), _TASK, _SETTINGS, against=result)
  assert again["accuracy_minus_against"] == 0
  other = {**result, "task_hash": "0" * 64}
  with pytest.raises(ValueError, match=r"not a result of launch\.choose"):
    choose_run(calm_run(), _TASK, _SETTINGS, against=other)


def test_a_long_context_loses_its_beginning_and_a_long_candidate_is_refused():
  run = calm_run(num_chunks=8)
  scorer = TextScorer(run, _SETTINGS)
  row = scorer.encode("x" * 100, "12345")
  assert row.is_cut and row.tokens.shape == (8, 4) and row.num_context == 6
  assert row.num_last == 1
  end = run.tokenizer.vocabulary.end_id
  assert row.tokens[-1].tolist() == [ord("5"), end, end, end]
  assert not scorer.encode("x" * 20, "12345").is_cut
  with pytest.raises(ValueError, match="29 tokens, and the model's context of"):
    scorer.encode("", "y" * 29)
  task = Task("plain", [_TASK.items[0]._replace(texts=("a", "y" * 29, "b"))])
  with pytest.raises(ValueError, match="question 1: a candidate has 29"):
    choose_run(run, task, _SETTINGS)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"num_samples": 1}, "needs at least 2"),
    ({"partial": "none"}, "marginal, end"),
    ({"bandwidth": 0.0}, "it is positive"),
  ],
)
def test_settings_out_of_range_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(_SETTINGS, **changes)


def test_runs_and_estimates_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match="predicts nothing"):
    TextScorer(autoencoder_run(), _SETTINGS)
  settings = dataclasses.replace(_SETTINGS, estimate="kernel")
  with pytest.raises(ValueError, match="has exact"):
    TextScorer(token_run(num_chunks=64), settings)
