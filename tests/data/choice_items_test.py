"""Lines of every published form, and the mistakes in them."""

import json

import pytest

from calm_jax.data.choice_forms import Item
from calm_jax.data.choice_items import read_task, with_examples

_HELLASWAG = {
  "ind": 4,
  "activity_label": "Baking bread",
  "ctx_a": "A woman kneads dough on a table.",
  "ctx_b": "she",
  "ctx": "A woman kneads dough on a table. she",
  "endings": [
    "puts it [substeps] in a bowl.",
    "paints a wall.",
    "[title] How to rest it",
    "flies.",
  ],
  "label": 0,
}
_PIQA = {
  "goal": "Dry a wet book.",
  "sol1": "Stand it open in moving air.",
  "sol2": "Close it in a plastic bag.",
  "label": 0,
}
_ARC = {
  "id": "x1",
  "question": {
    "stem": "Which of these melts first?",
    "choices": [
      {"text": "ice", "label": "A"},
      {"text": "iron", "label": "B"},
      {"text": "salt", "label": "C"},
    ],
  },
  "answerKey": "A",
}
_ARC_COPY = {
  "question": "Which of these melts first?",
  "choices": {"text": ["ice", "iron", "salt"], "label": ["1", "2", "3"]},
  "answerKey": "1",
}
_WINOGRANDE = {
  "qID": "w1",
  "sentence": "The cup did not fit in the bag because the _ was too small.",
  "option1": "cup",
  "option2": "bag",
  "answer": "2",
}
_LAMBADA = {"text": "They rowed all night, and at dawn they saw the harbour"}
_PLAIN = {"context": "Two and two", "choices": [" is four", " is"], "answer": 0}
_FORMS = {
  "hellaswag": (
    _HELLASWAG,
    Item(
      ("Baking bread: A woman kneads dough on a table. She",) * 4,
      (
        " puts it in a bowl.",
        " paints a wall.",
        "  How to rest it",
        " flies.",
      ),
      (18, 14, 15, 6),
      0,
    ),
  ),
  "piqa": (
    _PIQA,
    Item(
      ("Question: Dry a wet book.\nAnswer:",) * 2,
      (" Stand it open in moving air.", " Close it in a plastic bag."),
      (28, 26),
      0,
    ),
  ),
  "arc": (
    _ARC,
    Item(
      ("Question: Which of these melts first?\nAnswer:",) * 3,
      (" ice", " iron", " salt"),
      (3, 4, 4),
      0,
    ),
  ),
  "winogrande": (
    _WINOGRANDE,
    Item(
      (
        "The cup did not fit in the bag because the cup",
        "The cup did not fit in the bag because the bag",
      ),
      (" was too small.",) * 2,
      (14, 14),
      1,
    ),
  ),
  "lambada": (
    _LAMBADA,
    Item(
      ("They rowed all night, and at dawn they saw the",),
      (" harbour",),
      (7,),
      0,
    ),
  ),
  "plain": (
    _PLAIN,
    Item(("Two and two",) * 2, (" is four", " is"), (8, 3), 0),
  ),
}


def _write(path, *lines):
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  return path


@pytest.mark.parametrize("form", _FORMS)
def test_five_lines_of_a_form(form, tmp_path):
  line, expected = _FORMS[form]
  task = read_task(_write(tmp_path / "task.jsonl", *[line] * 5))
  assert task.form == form
  assert task.items == [expected] * 5


def test_copies_with_other_fields_are_read(tmp_path):
  copy = {**_HELLASWAG, "label": "0"}
  path = _write(tmp_path / "task.jsonl", copy)
  assert read_task(path).items[0].answer == 0
  assert read_task(_write(path, _ARC_COPY)).items == [_FORMS["arc"][1]]


def test_labels_of_piqa_stand_beside_it(tmp_path):
  line = {k: v for k, v in _PIQA.items() if k != "label"}
  path = _write(tmp_path / "valid.jsonl", line, line)
  with pytest.raises(ValueError, match=r"line 1 .piqa.: it has no 'label'"):
    read_task(path)
  (tmp_path / "valid-labels.lst").write_text("1\n0\n")
  assert [item.answer for item in read_task(path).items] == [1, 0]
  (tmp_path / "valid-labels.lst").write_text("1\n")
  with pytest.raises(ValueError, match="1 labels for the 2 questions"):
    read_task(path)


@pytest.mark.parametrize(
  ("lines", "words"),
  [
    ([], "holds no question"),
    ([{"query": "?"}], "of no known form"),
    ([{**_ARC, "answerKey": ""}], "line 1 .arc.: it has no 'answerKey'"),
    ([{**_ARC, "answerKey": "E"}], "answerKey is 'E'"),
    ([{k: v for k, v in _PLAIN.items() if k != "answer"}], "no 'answer'"),
    ([_PLAIN, {"context": "a", "choices": []}], "line 2 has no 'answer'"),
    ([{**_PLAIN, "answer": 2}], "the answer is 2; a number from 0 to 1"),
    ([{**_PLAIN, "answer": -1}], "the answer is -1"),
    ([{**_PLAIN, "answer": True}], "the answer is True"),
    ([{**_PLAIN, "choices": [" is four"]}], "no list of two texts"),
    ([{**_PLAIN, "choices": [" is four", ""]}], "no list of two texts"),
    ([{**_PLAIN, "context": 3}], "'context' is 3; a text is expected"),
    ([{**_HELLASWAG, "endings": ["a", "b", "c"]}], "3 choices; 4 are expected"),
    ([{**_HELLASWAG, "label": ""}], "it has no 'label'"),
    ([{**_WINOGRANDE, "answer": ""}], "it has no 'answer'"),
    ([{**_WINOGRANDE, "answer": "3"}], "a number from 1 to 2"),
    ([{**_WINOGRANDE, "sentence": "No gap."}], "no single gap"),
    ([{"text": "word"}], "two words or more"),
  ],
)
def test_mistakes_are_one_line_with_their_place(lines, words, tmp_path):
  with pytest.raises(ValueError, match=words) as caught:
    read_task(_write(tmp_path / "task.jsonl", *lines))
  assert "\n" not in str(caught.value) and "task.jsonl" in str(caught.value)


def test_what_is_no_json_is_named(tmp_path):
  path = tmp_path / "task.jsonl"
  path.write_text(json.dumps(_PLAIN) + "\n{oh\n")
  with pytest.raises(ValueError, match="line 2 is no JSON object"):
    read_task(path)


def test_examples_are_other_questions_with_their_answers():
  items = [
    Item((f"Q{i}",) * 2, (f" right {i}", " wrong"), (7, 5), 0) for i in range(6)
  ]
  found = with_examples(items, 2, seed=0)
  assert with_examples(items, 2, seed=0) == found
  assert with_examples(items, 2, seed=1) != found
  assert with_examples(items, 0, seed=0) == items
  for i, item in enumerate(found):
    first, second, question = item.contexts[0].split("\n\n")
    numbers = [int(it.split()[0][1:]) for it in (first, second)]
    assert question == f"Q{i}" and i not in numbers and len({*numbers}) == 2
    assert [first, second] == [f"Q{n} right {n}" for n in numbers]
  with pytest.raises(ValueError, match="give 0 to 5"):
    with_examples(items, 6, seed=0)
