"""Tests calm_jax/data/store*.py and preparation.py: the stream, whole."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
from etils import epath

from calm_jax.data import (
  preparation,
  sources,
  store,
  store_writer,
  tokenizer_sentencepiece,
)
from calm_jax.data import tokenizer as tokenizer_lib
from calm_jax.data.tokenizer_ids import IdTokenizer
from tests.data import prepared, texts

# Documents shorter and longer than a block, and one without text.
_TRAIN = [
  "",
  *texts.random_texts(seed=7, count=400),
  texts.words(seed=8, count=5000),
  "last",
]
_VALID = [texts.ENGLISH, "▁ é"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  directory = tmp_path_factory.mktemp("store")
  return prepared.prepare(directory, _TRAIN, _VALID).path


def test_another_tokenizer_than_that_of_the_data_is_noticed(path, tmp_path):
  shutil.copytree(path, tmp_path / "store")
  vocabulary = prepared.BYTES.vocabulary
  shutil.rmtree(tmp_path / "store" / "tokenizer")
  IdTokenizer(vocabulary).save(epath.Path(tmp_path / "store" / "tokenizer"))
  with pytest.raises(ValueError, match="its tokenizer is not the one"):
    store.TokenStore(tmp_path / "store")


def test_content_is_the_whole_stream(path):
  opened = store.TokenStore(path)
  for split, documents in (("train", _TRAIN), ("valid", _VALID)):
    expected = prepared.stream(documents)
    assert opened.num_tokens(split) == len(expected)
    assert opened.num_documents(split) == len(documents)
    assert opened.num_bytes(split) == sum(len(d.encode()) for d in documents)
    found = opened.read(split, 0, len(expected))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)
  assert opened.num_tokens("train") > 5 * store_writer.BLOCK_SIZE
  assert opened.splits == ("train", "valid")
  assert opened.vocabulary == prepared.BYTES.vocabulary


def test_reads_any_range(path):
  opened = store.TokenStore(path)
  expected = prepared.stream(_TRAIN)
  size, block = len(expected), store_writer.BLOCK_SIZE
  generator = np.random.default_rng(0)
  ranges = [
    (0, 0),
    (0, 1),
    (size - 1, size),
    (size, size),
    (block - 1, block + 1),
    (block, 2 * block),
    *np.sort(generator.integers(0, size, (50, 2)), axis=1).tolist(),
  ]
  for start, stop in ranges:
    np.testing.assert_array_equal(
      opened.read("train", start, stop), expected[start:stop]
    )


def test_wrong_ranges_and_splits(path):
  opened = store.TokenStore(path)
  size = opened.num_tokens("valid")
  for start, stop in ((-1, 3), (3, 2), (0, size + 1)):
    with pytest.raises(ValueError, match=f"tokens {start} to {stop}"):
      opened.read("valid", start, stop)
  with pytest.raises(ValueError, match="split 'test' is not known"):
    opened.num_tokens("test")


def test_hashes_are_of_the_ids(path):
  info = json.loads((path / "info.json").read_text())
  expected = hashlib.sha256(prepared.stream(_TRAIN).astype("<i4").tobytes())
  assert info["splits"]["train"]["sha256"] == expected.hexdigest()
  assert info["format_version"] == 1
  assert info["tokenizer_hash"] == prepared.BYTES.content_hash
  assert info["content_hash"] == store.TokenStore(path).content_hash


def test_content_hash_follows_every_token_and_the_tokenizer(tmp_path):
  hashes = {
    prepared.prepare(tmp_path / name, train, valid).content_hash
    for name, train, valid in (
      ("a", ["ab", "c"], ["d"]),
      ("b", ["abc"], ["d"]),
      ("c", ["ab", "d"], ["c"]),
      ("d", ["ab", "c"], ["e"]),
    )
  }
  assert len(hashes) == 4
  again = prepared.prepare(tmp_path / "e", ["ab", "c"], ["d"]).content_hash
  assert again in hashes


def test_large_vocabularies_are_kept_whole(tmp_path):
  """Ids above 65535 do not fit the two bytes of smaller vocabularies."""
  vocabulary = prepared.BYTES.vocabulary.__class__(
    size=70_000, begin_id=69_998, end_id=69_999
  )
  writer = store_writer.StreamWriter(tmp_path, vocabulary, ("train", "valid"))
  ids = np.arange(0, 69_990, 7, dtype=np.int32)
  writer.add("train", ids, is_first=True, is_last=True)
  counts = writer.close()
  assert counts["train"]["num_tokens"] == len(ids) + 2
  assert counts["valid"]["num_tokens"] == 0
  builder = store.tfds.builder_from_directory(tmp_path)
  blocks = [row["tokens"] for row in builder.as_data_source(split="train")]
  found = np.concatenate(blocks)[: len(ids) + 2]
  np.testing.assert_array_equal(found, [69_998, *ids, 69_999])


def test_documents_in_parts_are_one(tmp_path, monkeypatch):
  monkeypatch.setattr("calm_jax.data.source_files._PART_SIZE", 500)
  text = texts.words(seed=9, count=3000)
  (tmp_path / "train.txt").write_text(text)
  (tmp_path / "valid.txt").write_text("v")
  preparation.prepare(
    tmp_path / "out",
    train_input=f"{tmp_path}/train.txt",
    valid_input=f"{tmp_path}/valid.txt",
    tokenizer=prepared.BYTES,
    show_progress=False,
  )
  opened = store.TokenStore(tmp_path / "out")
  assert opened.num_documents("train") == 1
  np.testing.assert_array_equal(
    opened.read("train", 0, opened.num_tokens("train")), prepared.stream([text])
  )


def test_trains_a_tokenizer_on_training_text_only(tmp_path):
  opened = prepared.prepare(
    tmp_path,
    [texts.ENGLISH, "the"],
    ["漢" * 100],
    tokenizer=None,
    vocab_size=320,
  )
  expected = tokenizer_sentencepiece.train([texts.ENGLISH, "the"], 320)
  assert opened.tokenizer.content_hash == expected.content_hash
  ids = opened.read("train", 0, opened.num_tokens("train"))
  np.testing.assert_array_equal(
    ids, prepared.stream([texts.ENGLISH, "the"], expected)
  )


# --- held-out share -----------------------------------------------------------


def _prepare_held_out(tmp_path, file):
  preparation.prepare(
    tmp_path / "out",
    train_input=str(tmp_path / file),
    tokenizer=prepared.BYTES,
    show_progress=False,
  )
  return store.TokenStore(tmp_path / "out")


def _documents(opened, split):
  ids = opened.read(split, 0, opened.num_tokens(split))
  pieces = np.split(ids, np.flatnonzero(ids == 256))[1:]
  assert all(piece[-1] == 257 for piece in pieces)
  return [prepared.BYTES.decode(piece) for piece in pieces]


def test_a_share_of_the_documents_is_held_out_by_hash(tmp_path):
  documents = [f"{i} {text}" for i, text in enumerate(
    texts.random_texts(seed=10, count=400)
  )]  # fmt: skip
  prepared.write_json_lines(tmp_path / "a.jsonl", documents)
  opened = _prepare_held_out(tmp_path, "a.jsonl")
  train, valid = (_documents(opened, split) for split in opened.splits)
  assert sorted(train + valid) == sorted(documents)
  assert 8 <= len(valid) <= 35  # 5 % of 400, ± 4 standard deviations
  # The same document is held out wherever it stands.
  prepared.write_json_lines(tmp_path / "b.jsonl", documents[::-1])
  (tmp_path / "again").mkdir()
  shutil.copy(tmp_path / "b.jsonl", tmp_path / "again" / "b.jsonl")
  again = _prepare_held_out(tmp_path / "again", "b.jsonl")
  assert _documents(again, "valid") == valid[::-1]


def test_a_single_text_is_cut_where_stretches_are_held_out(tmp_path):
  text = "".join(f"line {i} of the text\n" for i in range(20_000))
  (tmp_path / "a.txt").write_text(text)
  opened = _prepare_held_out(tmp_path, "a.txt")
  train, valid = (_documents(opened, split) for split in opened.splits)
  assert len(valid) > 3 and all(train)
  assert len(train) <= len(valid) + 1
  assert 0.01 < opened.num_bytes("valid") / len(text) < 0.12
  # Nothing is lost; a cut falls before a space or at a line's start.
  assert sum(map(len, train + valid)) == len(text)
  assert sorted(" ".join(train + valid).split()) == sorted(text.split())


def test_python_docs_holds_out_documents(tmp_path):
  info = preparation.prepare(
    tmp_path / "out",
    train_input=sources.PYTHON_DOCS,
    tokenizer=prepared.BYTES,
    show_progress=False,
  )
  valid, train = info["splits"]["valid"], info["splits"]["train"]
  assert 0.02 < valid["num_bytes"] / train["num_bytes"] < 0.1


# --- parts of several machines ------------------------------------------------


def _prepare_parts(tmp_path, indices, count=3):
  for i in range(5):
    prepared.write_json_lines(
      tmp_path / f"{i}.jsonl", [f"{i}-{j} " * 700 for j in range(3)]
    )
  prepared.write_json_lines(tmp_path / "valid.json.jsonl", ["valid"])
  for index in indices:
    preparation.prepare(
      tmp_path / "out",
      train_input=f"{tmp_path}/?.jsonl",
      valid_input=f"{tmp_path}/valid.json.jsonl",
      tokenizer=prepared.BYTES,
      shard=(index, count),
      show_progress=False,
    )
  return tmp_path / "out"


def test_parts_read_as_one_store(tmp_path):
  opened = store.TokenStore(_prepare_parts(tmp_path, [2, 0, 1]))
  files = [0, 3, 1, 4, 2]  # every third file, part after part
  documents = [f"{i}-{j} " * 700 for i in files for j in range(3)]
  expected = prepared.stream(documents)
  assert opened.num_tokens("train") == len(expected)
  found = opened.read("train", 0, len(expected))
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(
    opened.read("train", 5000, 40_000), expected[5000:40_000]
  )
  assert opened.num_documents("valid") == 1
  assert opened.read("valid", 0, 7).tolist() == [256, *b"valid", 257]


def test_missing_part_is_named(tmp_path):
  path = _prepare_parts(tmp_path, [0, 2])
  with pytest.raises(ValueError, match=r"lacks 1 of its 3 .*--shard=1/3"):
    store.TokenStore(path)


def test_parts_of_two_preparations_are_refused(tmp_path):
  path = _prepare_parts(tmp_path, [0, 1, 2])
  _prepare_parts(tmp_path, [0], count=2)
  with pytest.raises(ValueError, match="of 2 and 3 parts"):
    store.TokenStore(path)


def test_all_parts_train_the_same_tokenizer(tmp_path):
  for i in range(2):
    prepared.write_json_lines(
      tmp_path / f"{i}.jsonl", [texts.words(seed=i, count=200)]
    )
  prepared.write_json_lines(tmp_path / "v.jsonl.jsonl", ["v"])
  for index in range(2):
    preparation.prepare(
      tmp_path / "out",
      train_input=f"{tmp_path}/?.jsonl",
      valid_input=f"{tmp_path}/v.jsonl.jsonl",
      vocab_size=320,
      shard=(index, 2),
      show_progress=False,
    )
  store.TokenStore(tmp_path / "out")


def test_parts_with_other_tokenizers_are_refused(tmp_path):
  path = _prepare_parts(tmp_path, [0, 1, 2])
  info = json.loads((path / "part-00001-of-00003/info.json").read_text())
  info["tokenizer_hash"] = "0" * 64
  (path / "part-00001-of-00003/info.json").write_text(json.dumps(info))
  with pytest.raises(ValueError, match="another tokenizer than"):
    store.TokenStore(path)


# --- all or nothing -----------------------------------------------------------


def test_same_preparation_is_left_alone(tmp_path):
  opened = prepared.prepare(tmp_path, ["a"], ["b"])
  before = {p: p.stat().st_mtime_ns for p in pathlib.Path(tmp_path).rglob("*")}
  del before[tmp_path / "train.jsonl"], before[tmp_path / "valid.jsonl"]
  info = preparation.prepare(
    opened.path,
    train_input=f"{tmp_path}/train.jsonl",
    valid_input=f"{tmp_path}/valid.jsonl",
    tokenizer=prepared.BYTES,
    show_progress=False,
  )
  assert info["is_new"] is False
  assert "was prepared already" in preparation.describe(opened.path, info)
  assert all(p.stat().st_mtime_ns == time for p, time in before.items())


@pytest.mark.parametrize(
  ("train", "settings", "name"),
  [
    (["changed"], {}, "input_sizes"),
    (["a"], {"tokenizer": None, "vocab_size": 300}, "tokenizer"),
    (["a"], {"shard": (0, 1), "tokenizer": None, "vocab_size": 9}, "tokenizer"),
  ],
)
def test_other_preparation_is_refused(tmp_path, train, settings, name):
  prepared.prepare(tmp_path, ["a"], ["b"])
  with pytest.raises(ValueError, match=f"prepared with another {name}"):
    prepared.prepare(tmp_path, train, ["b"], **settings)


def test_foreign_directory_is_refused(tmp_path):
  (tmp_path / "store").mkdir()
  (tmp_path / "store" / "thesis.tex").write_text("x")
  with pytest.raises(ValueError, match="is not empty"):
    prepared.prepare(tmp_path, ["a"], ["b"])
  assert [p.name for p in (tmp_path / "store").iterdir()] == ["thesis.tex"]
  (tmp_path / "file").write_text("x")
  with pytest.raises(ValueError, match="is a file"):
    preparation.prepare(
      tmp_path / "file", tokenizer=prepared.BYTES, show_progress=False
    )


def test_an_empty_directory_is_taken(tmp_path):
  (tmp_path / "store").mkdir()
  assert prepared.prepare(tmp_path, ["a"], ["b"]).num_tokens("train") == 3


_FAILURES = {
  "no document": ([], ["v"], {}, "the input has no text"),
  "no text": (["", ""], ["v"], {}, "the input has no text"),
  "no validation": (["a"], [""], {}, "validation input has no text"),
  "vocabulary": (
    ["a"],
    ["v"],
    {"tokenizer": None, "vocab_size": 5000},
    "5000 is more than",
  ),
  "no tokenizer": (["a"], ["v"], {"tokenizer": None}, "give one of"),
  "two tokenizers": (["a"], ["v"], {"vocab_size": 9}, "give one of"),
  "shard": (["a"], ["v"], {"shard": (3, 3)}, "shard 3/3 is impossible"),
  "shards": (["a"], ["v"], {"shard": (0, 3)}, "fewer than the 3 shards"),
}


@pytest.mark.parametrize("name", _FAILURES)
def test_failures_leave_nothing(tmp_path, name):
  train, valid, settings, message = _FAILURES[name]
  with pytest.raises(ValueError, match=message):
    prepared.prepare(tmp_path, train, valid, **settings)
  left = {path.name for path in tmp_path.iterdir()}
  assert left <= {"train.jsonl", "valid.jsonl"}


def test_bad_line_leaves_nothing(tmp_path):
  (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
  with pytest.raises(ValueError, match=r"a\.jsonl, line 2"):
    _prepare_held_out(tmp_path, "a.jsonl")
  assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_nothing_held_out_is_said(tmp_path):
  prepared.write_json_lines(tmp_path / "a.jsonl", ["a", "b"])
  with pytest.raises(ValueError, match="none of 2 documents was held out"):
    _prepare_held_out(tmp_path, "a.jsonl")


def test_training_text_is_not_validation_text(tmp_path):
  prepared.write_json_lines(tmp_path / "a.jsonl", ["a"])
  with pytest.raises(ValueError, match="both training and validation"):
    preparation.prepare(
      tmp_path / "out",
      train_input=f"{tmp_path}/*.jsonl",
      valid_input=f"{tmp_path}/a.jsonl",
      tokenizer=prepared.BYTES,
    )


# --- damaged stores -----------------------------------------------------------


def _spoil_records(spoil_fn):
  def spoil(path):
    file = next((path / "tokens").glob("*train*"))
    file.write_bytes(spoil_fn(file.read_bytes()))

  return spoil


_RECORDS = r"damaged or incomplete \(.*-train.array_record.* is damaged or cut"


def _set_info(path, **values):
  info = json.loads((path / "info.json").read_text())
  (path / "info.json").write_text(json.dumps({**info, **values}))


_DAMAGES = {
  "records cut": (_spoil_records(lambda data: data[:-100]), _RECORDS),
  "records halved": (
    _spoil_records(lambda data: data[: len(data) // 2]),
    _RECORDS,
  ),
  "records empty": (_spoil_records(lambda data: b""), _RECORDS),
  "records turned": (
    _spoil_records(lambda data: data.replace(b"s\0o\0", b"s\0a\0")),
    _RECORDS,
  ),
  "records gone": (
    lambda path: next((path / "tokens").glob("*train*")).unlink(),
    "damaged or incomplete",
  ),
  "tokens gone": (
    lambda path: shutil.rmtree(path / "tokens"),
    "damaged or incomplete",
  ),
  "features broken": (
    lambda path: (path / "tokens" / "features.json").write_text("{"),
    "damaged or incomplete",
  ),
  "too few blocks": (
    lambda path: _set_info(path, block_size=7),
    "'train' has 1 blocks and should have",
  ),
  "info broken": (
    lambda path: (path / "info.json").write_text("{"),
    "info.json is damaged",
  ),
  "info torn": (
    lambda path: (path / "info.json").write_text('{"format_version": 1}'),
    "info.json is damaged: recipe is missing",
  ),
  "no block size": (
    lambda path: _set_info(path, block_size=0),
    "info.json is damaged: block_size is missing or not what it should be",
  ),
  "no counts": (
    lambda path: _set_info(path, splits={"train": {}}),
    "info.json is damaged: splits is missing or not what it should be",
  ),
  "no version": (
    lambda path: _set_info(path, format_version="1"),
    "info.json is damaged: format_version is missing or not",
  ),
  "info gone": (
    lambda path: (path / "info.json").unlink(),
    "holds no prepared data",
  ),
  "other format": (
    lambda path: _set_info(path, format_version=7),
    "prepared in format 7",
  ),
  "tokenizer gone": (
    lambda path: shutil.rmtree(path / "tokenizer"),
    "no tokenizer at",
  ),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damage_is_one_line(tmp_path, damage):
  spoil, message = _DAMAGES[damage]
  opened = prepared.prepare(tmp_path, ["some text"], ["b"])
  spoil(opened.path)
  with pytest.raises((ValueError, OSError), match=message) as error:
    store.TokenStore(opened.path).read("train", 0, 5)
  assert "\n" not in str(error.value)


def test_missing_store(tmp_path):
  with pytest.raises(FileNotFoundError, match="no prepared data at"):
    store.TokenStore(tmp_path / "none")


def test_an_inexact_tokenizer_is_reported(tmp_path, monkeypatch):
  class Lossy(tokenizer_lib.ByteTokenizer):
    def decode(self, ids, is_start=True):
      return super().decode(ids).lower()

  said = []
  monkeypatch.setattr(
    preparation.logging, "warning", lambda *args: said.append(args[1:])
  )
  prepared.prepare(tmp_path, ["A", "b", "C"], ["d"], tokenizer=Lossy())
  assert said == [(2, 4)]
