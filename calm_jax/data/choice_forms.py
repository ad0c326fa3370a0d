"""The published forms of questions, each with how a line of it is read.

A form is told by the fields of a line. The words around a question are those
of lm-evaluation-harness, so that results compare with published ones.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Fields = Mapping[str, Any]

_LETTERS = "ABCDE"
SECRET = "give a split whose answers are published, such as validation."


class Item(NamedTuple):
  """A question: context i goes on with text i, and one of them is right."""

  contexts: tuple[str, ...]
  texts: tuple[str, ...]  # with the white space that stands before them
  lengths: tuple[int, ...]  # characters of each choice as the file has it
  answer: int


class Form(NamedTuple):
  """How one kind of published file is read."""

  fields: frozenset[str]  # by which it is told
  read: Callable[[Fields], Item]  # raises ValueError with a few words


def _plain(fields: Fields) -> Item:
  context, texts = _text(fields, "context"), _texts(fields["choices"])
  return _item(context, texts, _index(fields["answer"], len(texts)))


def _hellaswag(fields: Fields) -> Item:
  texts = [_cleaned(text) for text in _texts(fields["endings"], 4)]
  context = fields.get("ctx") if "ctx_b" not in fields else None
  if context is None:
    context = f"{_text(fields, 'ctx_a')} {_text(fields, 'ctx_b').capitalize()}"
  context = _cleaned(f"{_text(fields, 'activity_label')}: {context}")
  answer = _index(_given(fields, "label"), len(texts))
  return _item(context, texts, answer, " ")


def _piqa(fields: Fields) -> Item:
  texts = [_text(fields, "sol1"), _text(fields, "sol2")]
  answer = _index(_given(fields, "label"), 2)
  context = f"Question: {_text(fields, 'goal')}\nAnswer:"
  return _item(context, texts, answer, " ")


def _arc(fields: Fields) -> Item:
  question, choices = fields["question"], fields.get("choices")
  if isinstance(question, Mapping):  # as published
    question, choices = question.get("stem"), question.get("choices")
  if isinstance(choices, Mapping):  # as in the copy of Hugging Face
    texts, labels = choices.get("text"), choices.get("label")
  else:
    choices = choices if isinstance(choices, list) else []
    texts = [it.get("text") for it in choices if isinstance(it, Mapping)]
    labels = [it.get("label") for it in choices if isinstance(it, Mapping)]
  texts = _texts(texts)
  if not isinstance(question, str) or not isinstance(labels, list):
    raise ValueError("a question with a stem and labelled choices is expected.")
  key = _given(fields, "answerKey")
  if key not in labels or len(labels) != len(texts):
    raise ValueError(
      f"answerKey is {key!r}, and the choices are labelled {labels}; one of"
      " them is expected."
    )
  context = f"Question: {question}\nAnswer:"
  return _item(context, texts, labels.index(key), " ")


def _winogrande(fields: Fields) -> Item:
  """The options differ in the context; what follows them is scored."""
  sentence = _text(fields, "sentence")
  if sentence.count("_") != 1:
    raise ValueError(f"{sentence!r} has no single gap _ for the options.")
  before, after = sentence.split("_")
  options = [_text(fields, "option1"), _text(fields, "option2")]
  answer = _index(_given(fields, "answer"), 2, first=1)
  after = after.strip()
  if not after:
    raise ValueError(f"nothing follows the gap of {sentence!r} to be scored.")
  contexts = tuple(before + option for option in options)
  return Item(contexts, (f" {after}",) * 2, (len(after),) * 2, answer)


def _lambada(fields: Fields) -> Item:
  """The last word of a passage, without other candidates."""
  context, _, word = _text(fields, "text").rstrip().rpartition(" ")
  if not context.strip() or not word:
    raise ValueError("a text of two words or more is expected.")
  return Item((context,), (f" {word}",), (len(word),), 0)


FORMS: dict[str, Form] = {
  "hellaswag": Form(frozenset({"endings", "activity_label"}), _hellaswag),
  "piqa": Form(frozenset({"goal", "sol1", "sol2"}), _piqa),
  "winogrande": Form(
    frozenset({"sentence", "option1", "option2"}), _winogrande
  ),
  "arc": Form(frozenset({"question", "answerKey"}), _arc),
  "plain": Form(frozenset({"context", "choices", "answer"}), _plain),
  "lambada": Form(frozenset({"text"}), _lambada),
}


def _item(
  context: str, texts: Sequence[str], answer: int, delimiter: str = ""
) -> Item:
  """One context before all choices."""
  return Item(
    (context,) * len(texts),
    tuple(delimiter + text for text in texts),
    tuple(map(len, texts)),
    answer,
  )


def _given(fields: Fields, name: str) -> Any:
  if fields.get(name) in (None, ""):
    raise ValueError(f"it has no {name!r}; {SECRET}")
  return fields[name]


def _index(value: Any, num_choices: int, first: int = 0) -> int:
  """A number, also in quotes, or a letter, as an index from 0 on."""
  if isinstance(value, str) and len(value) == 1 and value in _LETTERS:
    value = _LETTERS.index(value) + first
  if isinstance(value, str) and value.isdecimal():
    value = int(value)
  if type(value) is not int or not 0 <= value - first < num_choices:
    last = first + num_choices - 1
    raise ValueError(
      f"the answer is {value!r}; a number from {first} to {last} is expected,"
      f" for there are {num_choices} choices."
    )
  return value - first


def _text(fields: Fields, name: str) -> str:
  if not isinstance(fields.get(name), str):
    raise ValueError(f"{name!r} is {fields.get(name)!r}; a text is expected.")
  return fields[name]


def _texts(values: Any, num_expected: int | None = None) -> list[str]:
  is_list = isinstance(values, list) and all(
    isinstance(value, str) and value for value in values
  )
  if not is_list or len(values) < 2:
    raise ValueError("its choices are no list of two texts or more.")
  if num_expected is not None and len(values) != num_expected:
    raise ValueError(
      f"it has {len(values)} choices; {num_expected} are expected."
    )
  return values


def _cleaned(text: str) -> str:
  """Without the marks that WikiHow's titles and links left in HellaSwag."""
  text = text.strip().replace(" [title]", ". ")
  return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
