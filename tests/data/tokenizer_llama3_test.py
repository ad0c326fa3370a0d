"""Tests calm_jax/data/tokenizer_llama3.py on a small tokenizer of its form."""

import base64
import json
import sys

import numpy as np
import pytest

from calm_jax.data import tokenizer as tokenizer_lib
from calm_jax.data import tokenizer_llama3
from tests.data import texts

tiktoken = pytest.importorskip("tiktoken")
tokenizers = pytest.importorskip("tokenizers")

# Each merge joins two earlier pieces; its id is its place in the list.
_MERGES = [
  (b"t", b"h"),
  (b"th", b"e"),
  (b" ", b"the"),
  (b"i", b"n"),
  (b" ", b"a"),
  (b"a", b"a"),
  (b"aa", b"aa"),
  (b"\n", b"\n"),
  (b" ", b" "),
  (b"  ", b"  "),
  (b"\xc3", b"\xa9"),
]


def _pieces():
  # Not in the order of the bytes, as in the published files.
  single = [bytes([byte]) for byte in [*range(33, 256), *range(33)]]
  return single + [first + second for first, second in _MERGES]


def _rank_file():
  return b"".join(
    base64.b64encode(piece) + b" %d\n" % rank
    for rank, piece in enumerate(_pieces())
  )


def _json_content():
  """What a tokenizer.json of the published form holds."""
  visible = tokenizer_llama3._visible_bytes()

  def write(piece):
    return "".join(visible[byte] for byte in piece)

  pieces = _pieces()
  special = ["<|begin_of_text|>", "<|end_of_text|>"] + [
    f"<|reserved_special_token_{i}|>" for i in range(254)
  ]
  return {
    "version": "1.0",
    "added_tokens": [
      {
        "id": len(pieces) + i,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
      }
      for i, content in enumerate(special)
    ],
    "normalizer": None,
    "pre_tokenizer": {
      "type": "Sequence",
      "pretokenizers": [
        {
          "type": "Split",
          "pattern": {"Regex": tokenizer_llama3.PATTERN},
          "behavior": "Isolated",
          "invert": False,
        },
        {
          "type": "ByteLevel",
          "add_prefix_space": False,
          "trim_offsets": True,
          "use_regex": False,
        },
      ],
    },
    "post_processor": None,
    "decoder": {
      "type": "ByteLevel",
      "add_prefix_space": True,
      "trim_offsets": True,
      "use_regex": True,
    },
    "model": {
      "type": "BPE",
      "ignore_merges": True,
      "vocab": {write(piece): i for i, piece in enumerate(pieces)},
      "merges": [f"{write(a)} {write(b)}" for a, b in _MERGES],
    },
  }


def _json_file(**model):
  content = _json_content()
  content["model"].update(model)
  return json.dumps(content).encode()


@pytest.fixture(scope="module")
def ranked():
  return tokenizer_llama3.Llama3Tokenizer(_rank_file())


@pytest.fixture(scope="module")
def from_json():
  return tokenizer_llama3.Llama3Tokenizer(_json_file())


def test_both_files_give_the_same_ids_and_hash(ranked, from_json):
  assert ranked.content_hash == from_json.content_hash
  assert ranked.vocabulary == from_json.vocabulary
  for text in [*texts.TRAPS, *texts.random_texts(seed=4, count=2000)]:
    ids = ranked.encode(text)
    np.testing.assert_array_equal(ids, from_json.encode(text))
    assert ranked.decode(ids) == text
    assert ids.size == 0 or ids.max() < len(_pieces())  # no control id


def test_merges_are_used(ranked):
  pieces = _pieces()
  ids = ranked.encode("the the aaaa")
  assert [pieces[i] for i in ids] == [b"the", b" the", b" a", b"aa", b"a"]


def test_vocabulary(ranked):
  vocabulary = ranked.vocabulary
  size = len(_pieces())
  assert vocabulary.size == size + 256
  assert (vocabulary.begin_id, vocabulary.end_id) == (size, size + 1)
  assert set(vocabulary.unscored_ids) == {size, *range(size + 2, size + 256)}


def test_slices_give_the_ids_of_the_whole(ranked):
  text = texts.words(seed=5, count=20_000) + texts.ENGLISH
  assert len(list(ranked._slice(text))) > 1
  whole = ranked._encode_slices([text])[0]
  np.testing.assert_array_equal(ranked.encode(text), whole)


@pytest.mark.parametrize("sign", [" ", "a", "\n", "漢"])
def test_long_runs_do_not_overflow(ranked, sign):
  text = sign * 300_000
  assert ranked.decode(ranked.encode(text)) == text


@pytest.mark.parametrize("file", ["rank file", "JSON"])
def test_save_and_load(tmp_path, ranked, file):
  data = {"rank file": _rank_file(), "JSON": _json_file()}[file]
  (tmp_path / "tokenizer.model").write_bytes(data)
  tokenizer = tokenizer_lib.load_tokenizer(tmp_path / "tokenizer.model")
  tokenizer.save(tmp_path / "saved")
  loaded = tokenizer_lib.load_tokenizer(tmp_path / "saved")
  assert loaded.content_hash == ranked.content_hash


_BAD_FILES = {
  "a cut rank file": (_rank_file()[:-8], "line 267: a base64 piece"),
  "a gap in the ranks": (
    b"".join(_rank_file().splitlines(keepends=True)[5:]),
    "whose ranks are not 0, 1, 2",
  ),
  "another model": (_json_file(type="Unigram"), "its model is Unigram"),
  "merges that count": (_json_file(ignore_merges=False), "ignore_merges"),
  "merges out of order": (
    _json_file(merges=_json_content()["model"]["merges"][::-1]),
    "not in the order of its merges",
  ),
  "a piece of no bytes": (
    _json_file(vocab={**_json_content()["model"]["vocab"], "漢": 9}),
    "stands for no byte",
  ),
  "another pattern": (
    json.dumps({**_json_content(), "pre_tokenizer": {"type": "ByteLevel"}}),
    "another pattern",
  ),
  "a normalizer": (
    json.dumps({**_json_content(), "normalizer": {"type": "NFC"}}),
    "it normalises text",
  ),
  "no begin": (
    json.dumps({**_json_content(), "added_tokens": []}),
    "not among its added tokens",
  ),
  "cut JSON": (_json_file()[:100], "is not readable JSON"),
  "other JSON": (b"{}", "its model is None"),
}


@pytest.mark.parametrize("name", _BAD_FILES)
def test_bad_files(name):
  data, message = _BAD_FILES[name]
  data = data.encode() if isinstance(data, str) else data
  with pytest.raises(ValueError, match=message) as error:
    tokenizer_llama3.Llama3Tokenizer(data, name="x.json")
  assert "x.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("package", ["tiktoken", "tokenizers"])
def test_missing_package_is_one_line(monkeypatch, package):
  monkeypatch.setitem(sys.modules, package, None)
  data = _rank_file() if package == "tiktoken" else _json_file()
  with pytest.raises(ValueError, match=f"needs the package {package}"):
    tokenizer_llama3.Llama3Tokenizer(data)
