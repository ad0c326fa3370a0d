"""Tests calm_jax/json_files.py."""

import math

import pytest

from calm_jax import json_files


def test_an_object_comes_back(tmp_path):
  values = {"text": "naïve\u2028", "score": 0.1, "none": None}
  json_files.write_json(tmp_path / "a.json", values)
  assert json_files.read_json(tmp_path / "a.json") == values


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "a.json is damaged: Expecting value"),
    (b'{"a": "\xff"}', "a.json is damaged: byte 0xFF at 7 is not UTF-8"),
    (b'{"a": Infinity}', "it holds Infinity; a JSON object of finite"),
    (b'{"a": 1e999}', "it holds 1e999"),
    (b'{"a": %s}' % (b"1" * 5000), "a number of more than 4300 digits; a JSON"),
    (b"[" * 100_000, "it is nested too deeply; a JSON object"),
    (b'{"a": 1,\n "b" 2}', "delimiter at line 2 column 6; a JSON object"),
    ("\ufeff\ufeff{}".encode(), "it begins with a byte-order mark; a JSON"),
    ('{"a": 1}'.encode("utf-16"), "byte 0xFF at 0 is not UTF-8"),
    (b"[1]", "object is expected, not list"),
  ],
)
def test_what_is_no_object_is_said_in_one_line(tmp_path, content, message):
  (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    json_files.read_json(tmp_path / "a.json")
  assert "\n" not in str(error.value)


def test_one_mark_in_front_is_dropped(tmp_path):
  (tmp_path / "a.json").write_bytes('\ufeff{"a": 1}'.encode())
  assert json_files.read_json(tmp_path / "a.json") == {"a": 1}


def test_the_name_of_a_file_that_is_no_utf8_is_written(tmp_path):
  values = {"data": b"caf\xe9 \xc3\xa9.txt".decode(errors="surrogateescape")}
  json_files.write_json(tmp_path / "a.json", values)
  assert json_files.read_json(tmp_path / "a.json") == values
  json_files.append_row(tmp_path / "a.jsonl", {"step": 1, **values})
  assert json_files.read_rows(tmp_path / "a.jsonl") == [{"step": 1, **values}]


def test_what_is_not_finite_is_not_written(tmp_path):
  for write in (json_files.write_json, json_files.append_row):
    with pytest.raises(ValueError, match="not JSON compliant"):
      write(tmp_path / "a.json", {"step": 1, "loss": math.nan})
  assert not any(tmp_path.iterdir())


def test_rows_are_added_and_a_line_without_its_end_is_left_out(tmp_path):
  path = tmp_path / "a.jsonl"
  rows = [{"step": 1, "text": "a\u2028b"}, {"step": 2, "loss": None}]
  json_files.write_rows(path, rows[:1])
  json_files.append_row(path, rows[1])
  assert json_files.read_rows(path) == rows
  for rest in ('{"step": 3', '{"step": 3}'):
    json_files.write_rows(path, rows)
    with path.open("a") as file:
      file.write(rest)
    assert json_files.read_rows(path) == rows


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ('{"step": 1}\n{"st\n', "line 2 is damaged"),
    ('{"step": 1}\n\n', "line 2 is damaged"),
    ('{"loss": 1.0}\n', "line 1 has no step"),
    ('{"step": 1, "loss": NaN}\n', "line 1 .* holds NaN"),
    ("[1]\n", "line 1 .* object is expected, not list"),
  ],
)
def test_a_damaged_line_is_named(tmp_path, content, message):
  (tmp_path / "a.jsonl").write_text(content)
  with pytest.raises(ValueError, match=message):
    json_files.read_rows(tmp_path / "a.jsonl")
