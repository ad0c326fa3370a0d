"""Questions with candidate answers, from files of one published form each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from calm_jax import json_files, paths
from calm_jax.data.choice_forms import FORMS, SECRET, Fields, Item
from calm_jax.text_files import read_lines


class Task(NamedTuple):
  """The questions of a file."""

  form: str
  items: list[Item]


def read_task(path: epath.PathLike) -> Task:
  """Reads a file of questions, one JSON object a line.

  Args:
    path: of HellaSwag, PIQA (its labels in a field, or in a file beside it as
      published: `valid.jsonl` and `valid-labels.lst`), ARC, WinoGrande or
      LAMBADA, or of lines `{"context", "choices", "answer"}`, whose choices are
      put behind the context as they stand.

  Returns:
    The questions.

  Raises:
    OSError: if it cannot be read.
    ValueError: if a line cannot be understood, naming it.
  """
  path = paths.expanded(path)
  lines = [_parse(line, f"{path} line {i + 1}") for i, line in _numbered(path)]
  if not lines:
    raise ValueError(f"{path} holds no question; give one JSON object a line.")
  name = _form_of(lines[0][1], lines[0][0])
  form = FORMS[name]
  if name == "piqa":
    lines = _with_labels(lines, path)
  items = []
  for place, fields in lines:
    if missing := sorted(form.fields - {*fields}):
      raise ValueError(
        f"{place} has no {missing[0]!r}, which lines of a {name} file have; all"
        " lines of a file are of one form."
      )
    try:
      items.append(form.read(fields))
    except ValueError as error:
      raise ValueError(f"{place} ({name}): {error}") from None
  return Task(name, items)


def with_examples(
  items: Sequence[Item], num_examples: int, seed: int
) -> list[Item]:
  """Puts k answered questions of the same file in front of each question.

  Args:
    items: of a file.
    num_examples: k.
    seed: which ones; those of item i depend on (seed, i) alone.

  Returns:
    The items, their examples before their contexts, with empty lines between.

  Raises:
    ValueError: if there are not so many others.
  """
  if num_examples < 0 or num_examples >= len(items):
    raise ValueError(
      f"num_examples is {num_examples}, and the file has {len(items)}"
      f" questions; give 0 to {len(items) - 1}, for a question is no example of"
      " itself."
    )
  if not num_examples:
    return list(items)
  result = []
  for i, item in enumerate(items):
    generator = np.random.default_rng([seed, i])
    others = generator.choice(len(items) - 1, num_examples, replace=False)
    front = "".join(
      items[j].contexts[items[j].answer]
      + items[j].texts[items[j].answer]
      + "\n\n"
      for j in (int(j + (j >= i)) for j in others)
    )
    contexts = tuple(front + context for context in item.contexts)
    result.append(item._replace(contexts=contexts))
  return result


# What a line of a form may lack where its answers are kept secret.
_ANSWERS = {"arc": "answerKey", "plain": "answer"}


def _numbered(path: epath.Path) -> list[tuple[int, str]]:
  return [(i, it) for i, it in enumerate(read_lines(path)) if it.strip()]


def _parse(line: str, place: str) -> tuple[str, dict[str, Any]]:
  try:
    fields = json_files.parse(line)
  except ValueError as error:
    raise ValueError(
      f"{place} is no JSON object: {error}; give one question a line."
    ) from None
  if not isinstance(fields, dict):
    raise ValueError(f"{place} is no JSON object; give one question a line.")
  return place, fields


def _form_of(fields: Fields, place: str) -> str:
  for name, form in FORMS.items():
    if form.fields <= {*fields}:
      return name
  for name, answer in _ANSWERS.items():
    if FORMS[name].fields - {answer} <= {*fields}:
      raise ValueError(f"{place} ({name}): it has no {answer!r}; {SECRET}")
  forms = "; ".join(
    f"{name} has {', '.join(sorted(form.fields))}"
    for name, form in FORMS.items()
  )
  raise ValueError(
    f"{place} has the fields {', '.join(sorted(fields)) or 'none'}, which are"
    f" of no known form: {forms}."
  )


def _with_labels(
  lines: list[tuple[str, dict[str, Any]]], path: epath.Path
) -> list[tuple[str, dict[str, Any]]]:
  beside = path.parent / f"{path.stem}-labels.lst"
  if all("label" in fields for _, fields in lines) or not beside.exists():
    return lines
  labels = [label.strip() for label in read_lines(beside)]
  if len(labels) != len(lines):
    raise ValueError(
      f"{beside} has {len(labels)} labels for the {len(lines)} questions of"
      f" {path}; one a line is expected."
    )
  return [
    (place, {**fields, "label": label})
    for (place, fields), label in zip(lines, labels, strict=True)
  ]
