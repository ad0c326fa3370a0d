"""Questions from any text: which continuation is the real one?"""

from typing import Any

import numpy as np

from calm_jax.data.tokenizer import Tokenizer


def cloze_items(
  tokens: np.ndarray,
  tokenizer: Tokenizer,
  *,
  context_size: int,
  continuation_size: int,
  num_choices: int = 4,
  num_items: int = 400,
  at_words: bool = False,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Cuts contexts with their continuations, and others from elsewhere.

  All continuations have one length and do not overlap with the question's own
  text. They begin anywhere, mostly inside a word, which already a small model
  goes on with; or where a word begins, so that a wrong one is not told by that.

  Args:
    tokens: [n] int32, a stream of documents between control ids.
    tokenizer: of the stream.
    context_size: tokens of a context.
    continuation_size: tokens of a continuation.
    num_choices: continuations of a question.
    num_items: questions.
    at_words: whether continuations begin with the space before a word.
    seed: of places and order.

  Returns:
    `context`, `choices`, `answer` of each question, as `read_task` takes them.

  Raises:
    ValueError: if a number is out of range or the text is too short.
  """
  if min(context_size, continuation_size, num_items) < 1 or num_choices < 2:
    raise ValueError(
      f"a task of {num_items} questions with {num_choices} choices of"
      f" {continuation_size} tokens behind {context_size} is impossible; give"
      " 1 or more of each, and 2 choices or more."
    )
  if seed < 0:
    raise ValueError(f"seed is {seed}; it is at least 0.")
  generator = np.random.default_rng(seed)
  # The context of a wrong continuation is not shown, but has to be there too:
  # so the beginnings of documents are as rare among the wrong as the right.
  places = _places(tokens, tokenizer, context_size, continuation_size)
  if at_words:
    places = places[_is_word(tokens, tokenizer)[places]]
  if len(places) < 2 * num_choices:
    raise ValueError(
      f"the text has {len(places)} places for {context_size} tokens of context"
      f" and {continuation_size} that go on; give longer documents, or ask for"
      " less."
    )
  size = context_size + continuation_size
  items: list[dict[str, Any]] = []
  for first in generator.permutation(places).tolist():
    others = generator.choice(places, num_choices - 1).tolist()
    if min(abs(other - first) for other in others) < size:
      continue
    context = _text(tokens[first - context_size : first], tokenizer)
    texts = [
      _text(tokens[place : place + continuation_size], tokenizer)
      for place in (first, *others)
    ]
    if context is None or None in texts or len({*texts}) < num_choices:
      continue
    order = generator.permutation(num_choices)
    items.append(
      {
        "context": context,
        "choices": [texts[i] for i in order],
        "answer": int(np.argmin(order)),
      }
    )
    if len(items) == num_items:
      return items
  raise ValueError(
    f"the text gave {len(items)} questions, and {num_items} are asked for; give"
    " more text."
  )


def _places(
  tokens: np.ndarray,
  tokenizer: Tokenizer,
  context_size: int,
  continuation_size: int,
) -> np.ndarray:
  """Where a continuation may begin."""
  vocabulary = tokenizer.vocabulary
  controls = [vocabulary.begin_id, vocabulary.end_id, *vocabulary.unscored_ids]
  before = np.append(0, np.cumsum(np.isin(tokens, controls)))
  size = context_size + continuation_size
  first = np.arange(0, max(0, len(tokens) - size + 1))
  return first[before[first + size] == before[first]] + context_size


def _is_word(tokens: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
  """Whether a token begins with a space, and none before it does."""
  is_space = np.array([it[:1] == b" " for it in tokenizer.pieces])[tokens]
  return is_space & ~np.append(False, is_space[:-1])


def _text(tokens: np.ndarray, tokenizer: Tokenizer) -> str | None:
  """The text of tokens; None if it is not read as these tokens again."""
  text = tokenizer.decode(tokens, is_start=False)
  if "\ufffd" in text:
    return None
  found = tokenizer.encode_all([text], [False])[0]
  return text if np.array_equal(found, tokens) else None
