"""Tests evaluation/ngram.py on texts whose distribution is known."""

import numpy as np
import pytest

from calm_jax.config import VocabularyConfig
from calm_jax.data.batch import Row, make_batch
from calm_jax.evaluation.ngram import NgramModel, ngram_columns

_VOCABULARY = VocabularyConfig(size=6, begin_id=3, end_id=4)


def _scores(model, tokens, context_length, num_samples=4, length=64):
  batch = make_batch(
    [Row(tokens[i : i + length], 0, i) for i in range(0, len(tokens), length)],
    _VOCABULARY,
    row_length=length,
    chunk_size=4,
    batch_size=len(tokens) // length,
  )
  columns = ngram_columns(
    model,
    [batch],
    context_length=context_length,
    num_samples=num_samples,
    seed=0,
  )
  total = {name: values.sum() for name, values in columns.items()}
  return {name: total[name] / total["count"] for name in total}


def test_draws_follow_the_counts():
  """A Markov chain over three letters against its transition matrix."""
  generator = np.random.default_rng(0)
  matrix = np.array([[0.1, 0.6, 0.3], [0.5, 0.0, 0.5], [0.2, 0.7, 0.1]])
  text = np.zeros(20_000, np.int32)
  for i in range(1, len(text)):
    text[i] = generator.choice(3, p=matrix[text[i - 1]])
  model = NgramModel(text, 1, 6)
  context = np.repeat(np.arange(3), 20_000)[:, None]
  drawn = model.sample(context, 2, generator)
  pairs = np.zeros((3, 3, 3))
  np.add.at(pairs, (context[:, 0], drawn[:, 0], drawn[:, 1]), 1 / 20_000)
  expected = matrix[:, :, None] * matrix[None]
  # Standard errors: of the draws and of the 20 000 counted letters.
  np.testing.assert_allclose(pairs, expected, atol=4 * 0.5 * 1.5 / 20_000**0.5)


def test_a_context_as_long_as_the_text_is_refused():
  text = np.arange(4, dtype=np.int32)
  with pytest.raises(ValueError, match="7 tokens, and the training text has 4"):
    NgramModel(text, 7, 6)


def test_a_periodic_text_is_known_from_one_token_of_context():
  text = np.tile(np.arange(3, dtype=np.int32), 200)
  scores = _scores(NgramModel(text, 2, 6), text[:256], 1)
  for n in range(1, 5):
    assert scores[f"accuracy_{n}"] == 1
    assert scores[f"collision_{n}"] == 1


def test_no_context_is_the_unigram_model():
  """p = (1/2, 1/3, 1/6): E[P(y)] = Σp² = 7/18, and so is the collision."""
  generator = np.random.default_rng(1)
  text = generator.choice(3, p=[1 / 2, 1 / 3, 1 / 6], size=64 * 300)
  scores = _scores(NgramModel(text.astype(np.int32), 1, 6), text, 0, 8)
  for n in range(1, 5):
    assert abs(scores[f"accuracy_{n}"] - (7 / 18) ** n) < 0.02
    assert abs(scores[f"collision_{n}"] - (7 / 18) ** n) < 0.02


def test_an_unseen_context_is_shortened():
  text = np.array([0, 1, 0, 1, 0, 1, 2], np.int32)
  model = NgramModel(text, 2, 6)
  generator = np.random.default_rng(0)
  # "11" never occurs, "1" is followed by 0, 0, 2; "5" is not there at all.
  after = model.sample(np.tile([[1, 1]], (3000, 1)), 1, generator)[:, 0]
  assert abs(np.mean(after == 0) - 2 / 3) < 0.03
  assert not np.any(after == 1)
  unigram = model.sample(np.tile([[5, 5]], (3000, 1)), 1, generator)[:, 0]
  assert abs(np.mean(unigram == 2) - 1 / 7) < 0.03


def test_refuses_contexts_without_a_number():
  with pytest.raises(ValueError, match="between 0 and 24"):
    NgramModel(np.zeros(3, np.int32), 25, 6)
