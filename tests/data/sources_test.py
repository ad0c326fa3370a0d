"""Tests calm_jax/data/source*.py: every format, and errors that name lines."""

import gzip
import hashlib
import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
import zstandard
from etils import epath

from calm_jax.data import preparation, source_files, sources
from tests.data import texts, tfds_sets

_DOCUMENTS = [
  "First document.\n",
  "",
  "Zweites, mit Übel ▁ \0 😀\r\n\n",
  "x" * 99,
]


def _json_lines(documents):
  return "".join(
    json.dumps({"id": i, "text": text}, ensure_ascii=i % 2 == 0) + "\n"
    for i, text in enumerate(documents)
  ).encode()


def _write_parquet(path, documents):
  table = pyarrow.table({"text": documents, "id": range(len(documents))})
  pyarrow.parquet.write_table(table, path, row_group_size=2)


def _read(pattern):
  """Whole documents."""
  documents, parts = [], []
  for part in sources.read_parts(sources.list_inputs(str(pattern))):
    assert part.num_bytes == len(part.text.encode())
    parts.append(part.text)
    if part.is_last:
      documents.append("".join(parts))
      parts = []
  assert not parts
  return documents


@pytest.mark.parametrize(
  "suffix", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet"]
)
def test_formats_with_several_documents(tmp_path, suffix):
  path = tmp_path / f"a.{suffix}"
  if suffix == "parquet":
    _write_parquet(path, _DOCUMENTS)
  else:
    path.write_bytes(_compress(_json_lines(_DOCUMENTS), suffix))
  assert _read(path) == _DOCUMENTS


@pytest.mark.parametrize("suffix", ["txt", "txt.gz", "txt.zst"])
def test_a_text_file_is_one_document(tmp_path, suffix):
  text = "".join(_DOCUMENTS)
  path = tmp_path / f"a.{suffix}"
  path.write_bytes(_compress(text.encode(), suffix))
  assert _read(path) == [text]


def _compress(data, suffix):
  if suffix.endswith("gz"):
    # Two members, as `cat a.gz b.gz` makes them.
    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])
  if suffix.endswith("zst"):
    half = len(data) // 2
    compress = zstandard.ZstdCompressor().compress
    return compress(data[:half]) + compress(data[half:])
  return data


def test_last_line_may_lack_its_end_and_blank_lines_are_skipped(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_bytes(b'{"text": "one"}\n\n  \r\n{"text": "two"}')
  assert _read(path) == ["one", "two"]


# What str.splitlines cuts at, beside the ends of lines.
_INSIDE = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i\rj"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_a_newline_ends_a_line_of_json(tmp_path, end):
  documents = [_INSIDE.replace("\r", ""), "next"]
  # JSON escapes what stands below the space; what is above may stand as it is.
  lines = [json.dumps({"text": it}, ensure_ascii=False) for it in documents]
  assert "\x85" in lines[0] and "\u2028" in lines[0]
  (tmp_path / "a.jsonl").write_bytes((end.join(lines) + end).encode())
  assert _read(tmp_path / "a.jsonl") == documents


def test_a_text_file_keeps_every_character(tmp_path):
  text = f"{_INSIDE}\r\n{_INSIDE}\n\n"
  (tmp_path / "a.txt").write_bytes(text.encode())
  assert _read(tmp_path / "a.txt") == [text]


_MARK = "\ufeff".encode()


@pytest.mark.parametrize("suffix", ["txt", "txt.gz", "txt.zst"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_one_mark_in_front_of_a_text_is_dropped(
  tmp_path, monkeypatch, suffix, size
):
  monkeypatch.setattr(source_files, "_PART_SIZE", size)
  path = tmp_path / f"a.{suffix}"
  for text in ("", "é", "one \ufefftwo", "\ufeffone"):
    path.write_bytes(_compress(_MARK + text.encode(), suffix))
    assert _read(path) == [text]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
@pytest.mark.parametrize("before", [b"", b"\n", b"\r\n"])
def test_one_mark_in_front_of_json_lines_is_dropped(tmp_path, suffix, before):
  path = tmp_path / f"a.{suffix}"
  content = _MARK + before + _json_lines(_DOCUMENTS)
  path.write_bytes(_compress(content, suffix))
  assert _read(path) == _DOCUMENTS
  path.write_bytes(_compress(_MARK, suffix))
  assert _read(path) == []


def test_the_last_suffix_says_what_a_file_holds(tmp_path):
  (tmp_path / "x.jsonl.cleaned.txt").write_text('{"no": "JSON"')
  assert _read(tmp_path / "x.jsonl.cleaned.txt") == ['{"no": "JSON"']
  (tmp_path / "x.txt.gz.jsonl").write_text('{"text": "one"}')
  assert _read(tmp_path / "x.txt.gz.jsonl") == ["one"]
  with pytest.raises(ValueError, match=r"x\.txt\.md is of a kind that cannot"):
    source_files.read_parts(epath.Path("x.txt.md"))
  (tmp_path / "set.txt").mkdir()  # no file, whatever its name
  assert sources.file_sizes([f"tfds:{tmp_path}/set.txt"]) == {}


def test_numbers_that_nobody_asks_for_may_be_anything(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": "a", "x": [NaN, 1e999]}\n')
  assert _read(tmp_path / "a.jsonl") == ["a"]


def test_globs_are_sorted_and_listed_once(tmp_path):
  for name in ("b.txt", "a.txt", "c.jsonl", "d.md"):
    (tmp_path / name).write_text('{"text": "c"}' if name[0] == "c" else name[0])
  assert _read(f"{tmp_path}/*.txt, {tmp_path}/c.jsonl,{tmp_path}/a.txt") == [
    "a",
    "b",
    "c",
  ]
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "e.txt").write_text("e")
  assert _read(f"{tmp_path}/*/?.txt") == ["e"]
  (tmp_path / "[odd].txt").write_text("odd")
  assert _read(tmp_path / "[odd].txt") == ["odd"]


def test_relative_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a.txt").write_text("a")
  assert _read("*.txt") == _read("a.txt") == ["a"]


def test_long_texts_come_in_parts_and_whole(tmp_path, monkeypatch):
  monkeypatch.setattr(source_files, "_PART_SIZE", 1000)
  text = texts.words(seed=6, count=2000) + " é漢😀" * 300 + "y" * 3000
  (tmp_path / "a.txt").write_bytes(text.encode())
  parts = list(sources.read_parts([str(tmp_path / "a.txt")]))
  assert "".join(part.text for part in parts) == text
  assert len(parts) > 10
  assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]


def _gzip_cut(_):
  return gzip.compress(_json_lines(_DOCUMENTS * 99))[:-30]


def _zstd_cut(_):
  return zstandard.ZstdCompressor().compress(_json_lines(_DOCUMENTS * 99))[:-9]


_GOOD = b'{"text": "good"}\n'
_BAD_CONTENT = {
  "json.jsonl": (_GOOD + b"{text}\n", "line 2: this is not JSON"),
  "nested.jsonl": (b"[" * 100_000, "line 1: this is not JSON"),
  "digits.jsonl": (
    _GOOD + b'{"text": "a", "id": %s}\n' % (b"7" * 5000),
    r"line 2: .* \(it holds a number of more than 4300 digits\); a .jsonl",
  ),
  "mark.jsonl": (
    _GOOD + "\ufeff".encode() + _GOOD,
    r"line 2: .* \(it begins with a byte-order mark\); a .jsonl",
  ),
  "utf16.jsonl": (
    _GOOD.decode().encode("utf-16"),
    "line 1: byte 0x.. at offset 0 of the file is not UTF-8",
  ),
  "marked.jsonl": (
    "\ufeff".encode() + b'{"text": "\xff"}\n',
    "line 1: byte 0xFF at offset 13 of the file",
  ),
  "marked.txt": ("\ufeffé".encode() + b"\xff", "byte 0xFF at offset 5 of"),
  "list.jsonl": (_GOOD + b"[1]\n", "line 2: .* and a list found"),
  "field.jsonl": (
    _GOOD * 2 + b'{"content": "x", "id": 1}\n',
    "line 3: .* fields 'content', 'id' found",
  ),
  "none.jsonl": (b"{}\n", "line 1: .* fields none found"),
  "number.jsonl": (b'{"text": 3}\n', "line 1: .* int as 'text' found"),
  "surrogate.jsonl": (
    _GOOD + b'{"text": "a\\ud800"}\n',
    r"line 2: character 1 .* lone surrogate U\+D800",
  ),
  "latin.jsonl": (
    _GOOD + '{"text": "é"}\n'.encode("latin-1"),
    "line 2: byte 0xE9 at offset 27 of the file",
  ),
  "latin.txt": (
    "one\ntwo\nthré".encode("latin-1") + b"e\n",
    "line 3: byte 0xE9 at offset 11 of the file",
  ),
  "ends.txt": ("ab\n漢".encode()[:-1], "line 2: byte 0xE6 at offset 3 of"),
  "cut.jsonl.gz": (_gzip_cut(0), "line [0-9]+ or soon after: .* cut short"),
  "cut.txt.gz": (_gzip_cut(0), "line 1 or soon after: .* cut short"),
  "cut.jsonl.zst": (_zstd_cut(0), "line [0-9]+ or soon after: .* cut short"),
  "no.txt.gz": (b"plain text", "line 1 or soon after: .* is no gzip data"),
  "no.jsonl.zst": (b"plain text", "line 1 or soon after: .* is no zstd data"),
  "no.parquet": (b"plain text, no table", "is not a readable Parquet file"),
}


@pytest.mark.parametrize("name", _BAD_CONTENT)
def test_bad_content_names_file_and_line(tmp_path, name):
  content, message = _BAD_CONTENT[name]
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    _read(tmp_path / name)
  assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("size", [3, 4, 7, 1000])
def test_bad_bytes_are_found_across_chunks(tmp_path, monkeypatch, size):
  monkeypatch.setattr(source_files, "_PART_SIZE", size)
  # The broken character begins at offset 9, in line 2.
  (tmp_path / "a.txt").write_bytes("漢é\nabc".encode() + b"\xe6\xbcabcdef")
  with pytest.raises(ValueError, match="line 2: byte 0xE6 at offset 9 of"):
    _read(tmp_path / "a.txt")


def test_parquet_columns(tmp_path):
  pyarrow.parquet.write_table(
    pyarrow.table({"body": ["a"], "n": [1]}), tmp_path / "a.parquet"
  )
  with pytest.raises(ValueError, match="columns body, n; a column 'text'"):
    _read(tmp_path / "a.parquet")
  _write_parquet(tmp_path / "b.parquet", ["a", None])
  with pytest.raises(ValueError, match="row 2: 'text' is of type NoneType"):
    _read(tmp_path / "b.parquet")


def test_damaged_parquet_names_the_file(tmp_path):
  """Whatever the library raises for it; cut, or one byte turned."""
  path = tmp_path / "a.parquet"
  documents = [f"document {i} " * 9 for i in range(50)]
  _write_parquet(path, documents)
  whole, num_refused = path.read_bytes(), 0
  for place in range(5, len(whole), len(whole) // 40):
    turned = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for content in (whole[:place], turned):
      path.write_bytes(content)
      try:
        _read(path)
      except ValueError as error:
        assert str(error).startswith(f"{path}") and "\n" not in str(error)
        num_refused += 1
  assert num_refused > 40


def test_parquet_text_that_is_not_utf8_names_the_row(tmp_path):
  binary = pyarrow.array([b"good", b"caf\xe9"])
  column = pyarrow.Array.from_buffers(pyarrow.string(), 2, binary.buffers())
  table = pyarrow.table({"text": column})
  pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
  with pytest.raises(ValueError, match="row 2: byte 0xE9 at 3 of the text is"):
    _read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
  ("pattern", "kind", "message"),
  [
    ("none.txt", FileNotFoundError, "no file matches '.*none.txt'"),
    ("*.jsonl", FileNotFoundError, r"no file matches '.*\*.jsonl'"),
    ("", ValueError, "is a directory; name its files"),
    ("a.csv", ValueError, "a.csv is of a kind that cannot be read"),
  ],
)
def test_bad_patterns(tmp_path, pattern, kind, message):
  (tmp_path / "a.csv").write_text("a")
  with pytest.raises(kind, match=message):
    sources.list_inputs(f"{tmp_path}/{pattern}")


def test_home_directory(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "a.txt").write_text("a")
  assert _read("~/a.txt") == _read("~/*.txt") == ["a"]


@pytest.mark.parametrize("patterns", ["", " , "])
def test_no_pattern(patterns):
  with pytest.raises(ValueError, match="no input was given"):
    sources.list_inputs(patterns)


def test_python_docs_is_english_and_not_run():
  documents = _read(sources.PYTHON_DOCS)
  size = sum(map(len, documents))
  assert 1_500_000 < size < 4_000_000
  assert len(documents) > 300
  assert any("with statement" in text for text in documents)
  assert not any("from antigravity import" in text for text in documents)
  digests = {hashlib.sha256(text.encode()).digest() for text in documents}
  assert len(digests) > 0.97 * len(documents)


def test_tfds(tmp_path):
  tfds_sets.write(
    tmp_path / "a",
    {"text": tfds.features.Text(), "title": tfds.features.Text()},
    [{"text": text, "title": "t"} for text in _DOCUMENTS],
  )
  assert _read(f"tfds:{tmp_path}/a") == _DOCUMENTS
  assert _read(f"tfds:{tmp_path}/a@test") == _DOCUMENTS[:1]
  assert _read(f"tfds:{tmp_path}/a@train[1:3]") == _DOCUMENTS[1:3]
  with pytest.raises(ValueError, match=r"cannot give .* split 'nosuch'"):
    _read(f"tfds:{tmp_path}/a@nosuch")


def test_tfds_takes_the_only_text(tmp_path):
  number = tfds.features.Scalar(np.int64)
  tfds_sets.write(
    tmp_path / "a",
    {"review": tfds.features.Text(), "label": number},
    [{"review": "r", "label": 1}],
  )
  assert _read(f"tfds:{tmp_path}/a") == ["r"]
  tfds_sets.write(tmp_path / "b", {"label": number}, [{"label": 1}])
  with pytest.raises(ValueError, match="has the features label;"):
    _read(f"tfds:{tmp_path}/b")


@pytest.mark.parametrize("dtype", [np.str_, np.object_, np.bytes_])
def test_tfds_scalars_of_strings_are_text(tmp_path, dtype):
  features = {
    "text": tfds.features.Scalar(dtype),
    "tags": tfds.features.Tensor(shape=(2,), dtype=dtype),
    "label": tfds.features.Scalar(np.int64),
  }
  example = {"text": "é", "tags": ["a", "b"], "label": 1}
  tfds_sets.write(tmp_path / "a", features, [example])
  assert _read(f"tfds:{tmp_path}/a") == ["é"]
  features["title"] = features.pop("text")
  example["title"] = example.pop("text")
  tfds_sets.write(tmp_path / "b", features, [example])
  assert _read(f"tfds:{tmp_path}/b") == ["é"]


def test_tfds_text_that_is_not_utf8_names_the_example(tmp_path):
  features = {"text": tfds.features.Scalar(np.bytes_)}
  examples = [{"text": b"a"}, {"text": b"caf\xe9"}]
  tfds_sets.write(tmp_path / "a", features, examples)
  with pytest.raises(ValueError, match="/a, example 1: the byte 0xE9 at 3 is"):
    _read(f"tfds:{tmp_path}/a")


_RECORD_DAMAGES = {
  "cut": lambda data: data[:-100],
  "halved": lambda data: data[: len(data) // 2],
  "empty": lambda data: b"",
  "turned": lambda data: data.replace(b"second", b"secone"),
  "turned index": lambda data: data[:65_560] + b"\xff" + data[65_561:],
}


@pytest.mark.parametrize("how", _RECORD_DAMAGES)
def test_a_damaged_tfds_file_is_named(tmp_path, how):
  """As input, and as what a prepared directory holds."""
  texts_there = [f"first {i}" * 20 for i in range(2)]
  texts_there += [f"second {i}" * 20 for i in range(2)]
  examples = [{"text": text} for text in texts_there]
  path = tmp_path / "a"
  tfds_sets.write(path, {"text": tfds.features.Text()}, examples)
  files = sorted(path.glob("*train*array_record*"))
  (damaged,) = [file for file in files if b"second" in file.read_bytes()]
  whole = damaged.read_bytes()
  damaged.write_bytes(_RECORD_DAMAGES[how](whole))
  assert damaged.read_bytes() != whole
  place = f"tfds:{path}, example 2: {damaged} is damaged or cut short"
  assert _read(f"tfds:{path}@train[:2]") == texts_there[:2]
  with pytest.raises(ValueError, match=re.escape(place)) as error:
    _read(f"tfds:{path}")
  assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match=re.escape(str(damaged))):
    _read(f"tfds:{path}@train[1:4]")
  with pytest.raises(ValueError, match=f"^{re.escape(place)}"):
    preparation.prepare(
      tmp_path / "out",
      train_input=f"tfds:{path}",
      vocab_size=300,
      show_progress=False,
    )


def test_unknown_tfds_name():
  with pytest.raises(ValueError, match="cannot give tfds:no_such_set") as error:
    _read("tfds:no_such_set")
  assert not re.search("\n", str(error.value))
