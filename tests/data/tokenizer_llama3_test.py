"""Tests calm_jax/data/tokenizer_llama3.py on a small tokenizer of its form."""

import json
import sys

import numpy as np
import pytest

from calm_jax.data import tokenizer as tokenizer_lib
from calm_jax.data import tokenizer_llama3
from tests.data import texts
from tests.data.llama3_files import json_content, json_file, pieces, rank_file

tiktoken = pytest.importorskip("tiktoken")
tokenizers = pytest.importorskip("tokenizers")
pre_tokenizers = tokenizers.pre_tokenizers

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def ranked():
  return tokenizer_llama3.Llama3Tokenizer(rank_file())


@pytest.fixture(scope="module")
def from_json():
  return tokenizer_llama3.Llama3Tokenizer(json_file())


def test_both_files_give_the_same_ids_and_hash(ranked, from_json):
  assert ranked.content_hash == from_json.content_hash
  assert ranked.vocabulary == from_json.vocabulary
  for text in [*texts.TRAPS, *texts.random_texts(seed=4, count=2000)]:
    ids = ranked.encode(text)
    np.testing.assert_array_equal(ids, from_json.encode(text))
    assert ranked.decode(ids) == text
    assert ids.size == 0 or ids.max() < len(pieces())  # no control id


def test_merges_are_used(ranked):
  known = pieces()
  ids = ranked.encode("the the aaaa")
  assert [known[i] for i in ids] == [b"the", b" the", b" a", b"aa", b"a"]


def test_vocabulary(ranked):
  vocabulary = ranked.vocabulary
  size = len(pieces())
  assert vocabulary.size == size + 256
  assert (vocabulary.begin_id, vocabulary.end_id) == (size, size + 1)
  assert set(vocabulary.unscored_ids) == {size, *range(size + 2, size + 256)}


def test_slices_give_the_ids_of_the_whole(ranked):
  text = texts.words(seed=5, count=20_000) + texts.ENGLISH
  assert len(list(ranked._slice(text))) > 1
  whole = ranked._encode_slices([text], [True])[0]
  np.testing.assert_array_equal(ranked.encode(text), whole)


@pytest.mark.parametrize("sign", [" ", "a", "\n", "漢"])
def test_long_runs_do_not_overflow(ranked, sign):
  text = sign * 300_000
  assert ranked.decode(ranked.encode(text)) == text


@pytest.mark.parametrize("file", ["rank file", "JSON"])
def test_save_and_load(tmp_path, ranked, file):
  data = {
    "rank file": rank_file(),
    "JSON": json_file(),
  }[file]
  (tmp_path / "tokenizer.model").write_bytes(data)
  tokenizer = tokenizer_lib.load_tokenizer(tmp_path / "tokenizer.model")
  tokenizer.save(tmp_path / "saved")
  loaded = tokenizer_lib.load_tokenizer(tmp_path / "saved")
  assert loaded.content_hash == ranked.content_hash


_BAD_FILES = {
  "a cut rank file": (
    rank_file()[:-8],
    "line 267: a base64 piece",
  ),
  "a gap in the ranks": (
    b"".join(rank_file().splitlines(keepends=True)[5:]),
    "whose ranks are not 0, 1, 2",
  ),
  "another model": (
    json_file(type="Unigram"),
    "its model is Unigram",
  ),
  "merges that count": (
    json_file(ignore_merges=False),
    "ignore_merges",
  ),
  "merges out of order": (
    json_file(merges=json_content()["model"]["merges"][::-1]),
    "not in the order of its merges",
  ),
  "a piece of no bytes": (
    json_file(
      vocab={
        "漢" if piece_id == 9 else piece: piece_id
        for piece, piece_id in json_content()["model"]["vocab"].items()
      }
    ),
    "stands for no byte",
  ),
  "another pattern": (
    json.dumps({**json_content(), "pre_tokenizer": {"type": "ByteLevel"}}),
    "another pattern",
  ),
  "a normalizer": (
    json.dumps({**json_content(), "normalizer": {"type": "NFC"}}),
    "it normalises text",
  ),
  "no begin": (
    json.dumps({**json_content(), "added_tokens": []}),
    "not among its added tokens",
  ),
  "cut JSON": (json_file()[:100], "is not readable JSON"),
  "other JSON": (b"{}", "its model is None"),
  "a list": (b'[{"model": 3}]', "line 1: a base64 piece"),
  "a model that is a number": (b'{"model": 3}', "not of the form"),
  "an id beyond all others": (
    json_file(vocab={**json_content()["model"]["vocab"], "!": 10**12}),
    "ids of its pieces are not 0, 1, 2",
  ),
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
  data = rank_file() if package == "tiktoken" else json_file()
  with pytest.raises(ValueError, match=f"needs the package {package}"):
    tokenizer_llama3.Llama3Tokenizer(data)


def _saved(change):
  """What the library writes after a change to the tokenizer."""
  tokenizer = tokenizers.Tokenizer.from_str(json_file().decode())
  change(tokenizer)
  return tokenizer.to_str()


def _split(behavior="isolated", invert=False, pattern=None, **byte_level):
  options = {"add_prefix_space": False, "use_regex": False, **byte_level}
  return pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(
        tokenizers.Regex(pattern or tokenizer_llama3.PATTERN), behavior, invert
      ),
      pre_tokenizers.ByteLevel(**options),
    ]
  )


def _set(name, value):
  return lambda tokenizer: setattr(tokenizer, name, value)


def _set_model(**values):
  return lambda tokenizer: [
    setattr(tokenizer.model, name, value) for name, value in values.items()
  ]


def _add(content, **options):
  token = tokenizers.AddedToken(content, **options)
  return lambda tokenizer: tokenizer.add_tokens([token])


_TEMPLATE = tokenizers.processors.TemplateProcessing(
  single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 267)]
)
# Files that give the ids of the clean one, and its hash.
_SAME = {
  "nothing": lambda tokenizer: None,
  "padding to a length": lambda t: t.enable_padding(length=729),
  "padding to the longest": lambda t: t.enable_padding(pad_id=7),
  "truncation": lambda t: t.enable_truncation(16),
  "truncation from the left": lambda t: t.enable_truncation(
    3, direction="left"
  ),
  "both": lambda t: [t.enable_truncation(16), t.enable_padding(length=32)],
  "a template": _set("post_processor", _TEMPLATE),
  "another decoder": _set("decoder", tokenizers.decoders.Fuse()),
  "fallback to bytes that are all there": _set_model(byte_fallback=True),
}
# Files that give others.
_REFUSED = {
  "a token in place of text": (
    _add("the", normalized=False),
    "its added token 'the' is not special, and takes the place",
  ),
  "a token in place of words": (
    _add("the", single_word=True, lstrip=True),
    "its added token 'the' is not special",
  ),
  "a control token that is a piece": (
    lambda t: t.add_special_tokens(["Ġthe"]),
    "its added token 'Ġthe' is one of its pieces",
  ),
  "a normalizer": (
    _set("normalizer", tokenizers.normalizers.NFKC()),
    "it normalises text",
  ),
  "lower case": (
    _set("normalizer", tokenizers.normalizers.Lowercase()),
    "it normalises text",
  ),
  "a prefix": (
    _set("pre_tokenizer", _split(add_prefix_space=True)),
    "it adds a space before each text",
  ),
  "a second split": (
    _set("pre_tokenizer", _split(use_regex=True)),
    "it splits words a second time",
  ),
  "words that vanish": (
    _set("pre_tokenizer", _split(behavior="removed")),
    "it does not keep words",
  ),
  "what stands between words": (
    _set("pre_tokenizer", _split(invert=True)),
    "it does not keep words",
  ),
  "another pattern": (
    _set("pre_tokenizer", _split(pattern=r"\s+")),
    "by another pattern",
  ),
  "digits one by one": (
    _set(
      "pre_tokenizer",
      pre_tokenizers.Sequence([pre_tokenizers.Digits(True), _split()]),
    ),
    "by another pattern",
  ),
  "white space that vanishes": (
    _set("pre_tokenizer", pre_tokenizers.Whitespace()),
    "not BPE of bytes",
  ),
  "merges left to chance": (_set_model(dropout=0.5), "has dropout 0.5"),
  "merges that count": (
    _set_model(ignore_merges=False),
    "does not set ignore_merges",
  ),
  "ends of words": (
    _set_model(end_of_word_suffix="</w>"),
    "has end_of_word_suffix </w>",
  ),
  "beginnings of words": (
    _set_model(continuing_subword_prefix="##"),
    "has continuing_subword_prefix ##",
  ),
  "another model": (
    _set("model", tokenizers.models.WordLevel({"a": 0}, unk_token="a")),
    "its model is WordLevel",
  ),
}
_TEXTS = [*texts.TRAPS, texts.ENGLISH, "the the", "<|begin_of_text|>a"]


@pytest.mark.parametrize("name", _SAME)
def test_state_that_the_library_saves_changes_nothing(name, from_json):
  data = _saved(_SAME[name]).encode()
  tokenizer = tokenizer_llama3.Llama3Tokenizer(data)
  assert tokenizer.content_hash == from_json.content_hash
  for text, found, expected in zip(
    _TEXTS,
    tokenizer.encode_all(_TEXTS),
    from_json.encode_all(_TEXTS),
    strict=True,
  ):
    np.testing.assert_array_equal(found, expected)
    assert tokenizer.decode(found) == text


@pytest.mark.parametrize("name", _REFUSED)
def test_a_file_that_gives_other_ids_is_refused(name, tmp_path):
  change, message = _REFUSED[name]
  (tmp_path / "tokenizer.json").write_text(_saved(change))
  with pytest.raises(ValueError) as caught:
    tokenizer_lib.load_tokenizer(tmp_path / "tokenizer.json")
  assert message in str(caught.value) and "\n" not in str(caught.value)


def test_one_more_control_token_is_another_tokenizer(from_json):
  data = _saved(lambda t: t.add_special_tokens(["<|more|>"])).encode()
  tokenizer = tokenizer_llama3.Llama3Tokenizer(data)
  assert tokenizer.vocabulary.size == from_json.vocabulary.size + 1
  assert tokenizer.content_hash != from_json.content_hash
  text = "the <|more|> the"  # written in a text, it is text
  assert tokenizer.decode(tokenizer.encode(text)) == text


def test_fewer_merges_are_another_tokenizer(from_json):
  merges = json_content()["model"]["merges"][:-1]
  tokenizer = tokenizer_llama3.Llama3Tokenizer(json_file(merges=merges))
  assert tokenizer.pieces == from_json.pieces
  assert tokenizer.encode("éa").tolist() != from_json.encode("éa").tolist()
  assert tokenizer.content_hash != from_json.content_hash


def test_a_byte_without_a_piece_is_refused():
  content = json_content()
  vocabulary = content["model"]["vocab"]
  first = next(iter(vocabulary))
  vocabulary["thth"] = vocabulary.pop(first)
  with pytest.raises(ValueError, match="no piece for 1 of the 256 bytes"):
    tokenizer_llama3.Llama3Tokenizer(json.dumps(content).encode())


def test_text_that_is_lost_is_an_error(ranked, monkeypatch):
  monkeypatch.setattr(ranked, "_encode_all", lambda parts: [[0, 1]])
  with pytest.raises(ValueError, match="keeps 2 of the 7 bytes of a text"):
    ranked.encode("the end")
