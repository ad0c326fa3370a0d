"""Questions made of a text whose every word is one of a kind."""

import numpy as np
import pytest

from calm_jax.data.cloze import cloze_items
from calm_jax.data.tokenizer_bytes import ByteTokenizer

_TOKENIZER = ByteTokenizer()
_DOCUMENTS = [
  " ".join(f"{chr(97 + d)}{i:03d}é" for i in range(300)) for d in range(5)
]
_SIZES = {"context_size": 24, "continuation_size": 12}


def _tokens():
  begin, end = _TOKENIZER.vocabulary.begin_id, _TOKENIZER.vocabulary.end_id
  parts = [[begin]]
  for text in _DOCUMENTS:
    parts += [_TOKENIZER.encode(text), [end]]
  return np.concatenate(parts).astype(np.int32)


@pytest.mark.parametrize("at_words", [False, True])
def test_the_answer_goes_on_and_the_others_come_from_elsewhere(at_words):
  items = cloze_items(
    _tokens(), _TOKENIZER, num_items=80, at_words=at_words, **_SIZES
  )
  assert len(items) == 80
  answers = [item["answer"] for item in items]
  assert {*answers} == {0, 1, 2, 3}
  for item in items:
    assert len({*item["choices"]}) == 4
    whole = [item["context"] + text for text in item["choices"]]
    stands = [any(it in text for text in _DOCUMENTS) for it in whole]
    assert stands == [i == item["answer"] for i in range(4)]
    for text in item["choices"]:
      assert any(text in it for it in _DOCUMENTS)
      assert len(_TOKENIZER.encode(text)) == 12
      assert text.startswith(" ") or not at_words


def test_questions_are_those_of_the_seed():
  first = cloze_items(_tokens(), _TOKENIZER, num_items=5, seed=3, **_SIZES)
  assert first == cloze_items(
    _tokens(), _TOKENIZER, num_items=5, seed=3, **_SIZES
  )
  assert first != cloze_items(
    _tokens(), _TOKENIZER, num_items=5, seed=4, **_SIZES
  )


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"num_choices": 1}, "is impossible"),
    ({"context_size": 5000}, "the text has 0 places"),
    ({"context_size": 2085, "num_items": 90}, "gave \\d+ questions"),
  ],
)
def test_what_cannot_be_made_is_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    cloze_items(_tokens(), _TOKENIZER, **{**_SIZES, **changes})
