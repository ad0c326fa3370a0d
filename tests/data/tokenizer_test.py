"""Tests calm_jax/data/tokenizer*.py: nothing is lost, ids are identified."""

import io
import json
import re

import numpy as np
import pytest
import sentencepiece

from calm_jax.data import (
  sentencepiece_settings,
  tokenizer_base,
  tokenizer_sentencepiece,
)
from calm_jax.data import tokenizer as tokenizer_lib
from tests.data import texts


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def tokenizer(request):
  if request.param == "bytes":
    return tokenizer_lib.ByteTokenizer()
  return tokenizer_sentencepiece.train([texts.ENGLISH], 330)


@pytest.mark.parametrize("text", texts.TRAPS, ids=range(len(texts.TRAPS)))
def test_gives_back_every_trap(tokenizer, text):
  ids = tokenizer.encode(text)
  assert ids.dtype == np.int32 and ids.ndim == 1
  assert tokenizer.decode(ids) == text
  assert tokenizer.decode_bytes(ids) == text.encode()


def test_gives_back_random_unicode(tokenizer):
  control = {*tokenizer.vocabulary.unscored_ids, tokenizer.vocabulary.end_id}
  for text in texts.random_texts(seed=1, count=3000):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not control & set(ids.tolist()), text


def test_several_texts_at_once_are_the_same(tokenizer):
  several = [*texts.TRAPS, *texts.random_texts(seed=2, count=50)]
  for text, ids in zip(several, tokenizer.encode_all(several), strict=True):
    np.testing.assert_array_equal(ids, tokenizer.encode(text))


def test_lone_surrogate_is_named(tokenizer):
  with pytest.raises(ValueError, match=r"U\+D8FF at character 2"):
    tokenizer.encode("ab\ud8ff")


@pytest.mark.parametrize("wrong", [-1, 258, 10**6])
def test_unknown_id_is_named(wrong):
  tokenizer = tokenizer_lib.ByteTokenizer()
  with pytest.raises(ValueError, match=f"token id {wrong} "):
    tokenizer.decode([65, wrong])


def test_damaged_utf8_becomes_the_replacement_character():
  tokenizer = tokenizer_lib.ByteTokenizer()
  assert tokenizer.decode([0x61, 0xE9, 0x62, 257]) == "a\ufffdb"
  assert tokenizer.decode([]) == ""
  assert tokenizer.decode(iter([104, 105])) == "hi"


def test_byte_vocabulary():
  vocabulary = tokenizer_lib.ByteTokenizer().vocabulary
  assert (vocabulary.size, vocabulary.begin_id, vocabulary.end_id) == (
    258,
    256,
    257,
  )
  assert vocabulary.unscored_ids == (256,)
  assert vocabulary.mask_id == 258 and vocabulary.padded_size == 384


def test_sentencepiece_vocabulary():
  vocabulary = tokenizer_sentencepiece.train([texts.ENGLISH], 330).vocabulary
  assert vocabulary.size == 330
  assert vocabulary.begin_id in vocabulary.unscored_ids
  assert vocabulary.end_id not in vocabulary.unscored_ids
  assert len(vocabulary.unscored_ids) == 2  # begin and unknown


def test_pieces_are_learned():
  tokenizer = tokenizer_sentencepiece.train([texts.ENGLISH], 330)
  assert len(tokenizer.encode("the age of wisdom")) < 10


def test_training_is_deterministic_and_depends_on_the_text():
  train = tokenizer_sentencepiece.train
  first = train([texts.ENGLISH], 330)
  assert first.content_hash == train([texts.ENGLISH], 330).content_hash
  assert (
    first.content_hash != train([texts.ENGLISH * 2 + "z"], 330).content_hash
  )
  assert first.content_hash != train([texts.ENGLISH], 331).content_hash


def test_save_and_load(tokenizer, tmp_path):
  tokenizer.save(tmp_path / "a" / "tokenizer")
  for path in (tmp_path / "a" / "tokenizer", tmp_path / "a"):
    loaded = tokenizer_lib.load_tokenizer(path)
    assert loaded.content_hash == tokenizer.content_hash
    assert loaded.vocabulary == tokenizer.vocabulary
    np.testing.assert_array_equal(
      loaded.encode(texts.ENGLISH), tokenizer.encode(texts.ENGLISH)
    )


def test_slices_give_the_ids_of_the_whole():
  tokenizer = tokenizer_sentencepiece.train([texts.ENGLISH], 330)
  text = texts.words(seed=3, count=3000) + "".join(texts.TRAPS)
  text = text.replace("▁", "")
  slices = list(tokenizer_base.slice_text(text, 100))
  assert len(slices) > 50 and "".join(slices) == text
  whole = tokenizer._processor.encode(text)
  parts = [i for part in slices for i in tokenizer._processor.encode(part)]
  assert parts == whole


def _existing_model(**settings):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts.ENGLISH.split("\n")),
    model_writer=model,
    minloglevel=3,
    **settings,
  )
  return model.getvalue()


def test_existing_model_without_begin_and_end_gets_them(tmp_path):
  model = _existing_model(
    vocab_size=50, model_type="unigram", bos_id=-1, eos_id=-1
  )
  (tmp_path / "x.model").write_bytes(model)
  tokenizer = tokenizer_lib.load_tokenizer(tmp_path / "x.model")
  vocabulary = tokenizer.vocabulary
  assert vocabulary.size == 52
  assert (vocabulary.begin_id, vocabulary.end_id) == (50, 51)
  assert vocabulary.unscored_ids == (50,)  # the unknown id is text
  assert tokenizer.decode(tokenizer.encode("the best of times")) == (
    "the best of times"
  )


def test_existing_model_keeps_its_own_ids():
  model = _existing_model(
    vocab_size=70,
    model_type="bpe",
    pad_id=3,
    control_symbols=["<x>"],
  )
  vocabulary = tokenizer_sentencepiece.SentencePieceTokenizer(model).vocabulary
  assert (vocabulary.begin_id, vocabulary.end_id) == (1, 2)
  assert vocabulary.unscored_ids == (1, 3, 4)


@pytest.mark.parametrize(
  ("size", "message"),
  [(100, "100 is too small; this text needs"), (9999, "9999 is more than")],
)
def test_impossible_vocabulary_size(size, message):
  with pytest.raises(ValueError, match=message):
    tokenizer_sentencepiece.train([texts.ENGLISH], size)


@pytest.mark.parametrize("space_every", [5000, 10**9], ids=["rare", "none"])
def test_rare_spaces_come_back(space_every):
  letters = np.random.default_rng(0).integers(0x4E00, 0x4E40, 20_000)
  text = "".join(
    " " if i % space_every == space_every - 1 else chr(it)
    for i, it in enumerate(letters)
  )
  tokenizer = tokenizer_sentencepiece.train([text], 400)
  for found in (text, "a b", " "):
    assert tokenizer.decode(tokenizer.encode(found)) == found


def test_no_text_to_train_on():
  with pytest.raises(ValueError, match="no text to train"):
    tokenizer_sentencepiece.train([], 300)


def _saved(tmp_path):
  tokenizer_sentencepiece.train([texts.ENGLISH], 330).save(tmp_path)
  return tmp_path


def _other_hash(path):
  info = json.loads((path / "tokenizer_info.json").read_text())
  info["content_hash"] = "0" * 64
  (path / "tokenizer_info.json").write_text(json.dumps(info))


def _other_version(path):
  info = json.loads((path / "tokenizer_info.json").read_text())
  info["format_version"] = 99
  (path / "tokenizer_info.json").write_text(json.dumps(info))


_DAMAGES = {
  "no info": (
    lambda path: (path / "tokenizer_info.json").unlink(),
    "holds no tokenizer_info.json",
  ),
  "broken info": (
    lambda path: (path / "tokenizer_info.json").write_text("{"),
    "tokenizer_info.json is damaged",
  ),
  "no model": (
    lambda path: (path / "sentencepiece.model").unlink(),
    "lacks its tokenizer file",
  ),
  "cut model": (
    lambda path: (path / "sentencepiece.model").write_bytes(b"\n\x05ab"),
    "is not a SentencePiece model",
  ),
  "empty model": (
    lambda path: (path / "sentencepiece.model").write_bytes(b""),
    "is empty",
  ),
  "other tokenizer": (_other_hash, "is not the one that was saved"),
  "other version": (_other_version, "format 99"),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damaged_directory(tmp_path, damage):
  path = _saved(tmp_path)
  spoil, message = _DAMAGES[damage]
  spoil(path)
  with pytest.raises(ValueError, match=message) as error:
    tokenizer_lib.load_tokenizer(path)
  assert "\n" not in str(error.value)


def test_missing_and_foreign_files(tmp_path):
  with pytest.raises(FileNotFoundError, match="no tokenizer at"):
    tokenizer_lib.load_tokenizer(tmp_path / "none")
  (tmp_path / "notes.txt").write_text("some text\n")
  with pytest.raises(
    ValueError, match=re.escape("notes.txt, line 1: a base64 piece")
  ):
    tokenizer_lib.load_tokenizer(tmp_path / "notes.txt")


_EXACT = {
  "model_type": "bpe",
  "byte_fallback": True,
  "normalization_rule_name": "identity",
}
_LLAMA2 = {
  **_EXACT,
  "add_dummy_prefix": True,
  "remove_extra_whitespaces": False,
}


# SentencePiece trains no such model, and reads one: it says so at its end.
_UNESCAPED = bytes([3 << 3 | 2, 2, 5 << 3, 0])


def _existing(size=330, escapes=True, **settings):
  model = _existing_model(vocab_size=size, **settings)
  model += b"" if escapes else _UNESCAPED
  return tokenizer_sentencepiece.SentencePieceTokenizer(model)


@pytest.mark.parametrize("has_prefix", [True, False])
@pytest.mark.parametrize("removes", [True, False])
@pytest.mark.parametrize("escapes", [True, False])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_settings_are_those_of_the_model(has_prefix, removes, escapes, rule):
  model = _existing_model(
    vocab_size=330,
    model_type="bpe",
    byte_fallback=True,
    normalization_rule_name=rule,
    add_dummy_prefix=has_prefix,
    remove_extra_whitespaces=removes,
  )
  model += b"" if escapes else _UNESCAPED
  settings = sentencepiece_settings.read_settings(model)
  assert settings == sentencepiece_settings.Settings(
    adds_prefix=has_prefix,
    removes_spaces=removes,
    escapes_spaces=escapes,
    normalizes=rule != "identity",
  )


@pytest.mark.parametrize("has_prefix", [True, False])
@pytest.mark.parametrize("escapes", [True, False])
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_exact_settings_give_back_exact_text(has_prefix, escapes, model_type):
  tokenizer = _existing(
    **_LLAMA2
    | {
      "model_type": model_type,
      "add_dummy_prefix": has_prefix,
      "hard_vocab_limit": False,
    },
    escapes=escapes,
  )
  assert tokenizer.is_exact
  several = [*texts.TRAPS, *texts.random_texts(seed=3, count=500)]
  several += [" Hello", "  a", "▁", "▁a", " ▁a", "a▁", "\u2581 b"]
  for text, ids in zip(several, tokenizer.encode_all(several), strict=True):
    assert tokenizer.decode(ids) == text


def test_llama2_settings_give_the_ids_of_sentencepiece():
  tokenizer = _existing(**_LLAMA2)
  for text in ("Hello", " Hello", "the best of times", "a\nb\n\nc", ""):
    expected = tokenizer._processor.encode(text)
    assert tokenizer.encode(text).tolist() == expected
  assert tokenizer.decode(tokenizer.encode("Hello")) == "Hello"
  assert tokenizer.decode_bytes(tokenizer.encode("Hello")) == b" Hello"


def test_parts_of_a_text_give_the_ids_of_the_whole():
  tokenizer = _existing(**_LLAMA2)
  text = texts.words(seed=6, count=3000) + "\n".join([texts.ENGLISH] * 3)
  text = text.replace("▁", "")
  parts = list(tokenizer_base.slice_text(text, 100))
  starts = [i == 0 for i in range(len(parts))]
  assert len(parts) > 50
  encoded = tokenizer.encode_all(parts, starts)
  whole = tokenizer._processor.encode(text)
  assert np.concatenate(encoded).tolist() == whole
  assert tokenizer.encode(text).tolist() == whole
  decoded = map(tokenizer.decode, encoded, starts)
  assert list(decoded) == parts


def test_models_that_change_text_are_not_exact():
  for settings in (
    {"remove_extra_whitespaces": True},
    {"normalization_rule_name": "nfkc"},
    {"byte_fallback": False},
  ):
    size = 330 if settings.get("byte_fallback", True) else 60
    assert not _existing(size, **_LLAMA2 | settings).is_exact


def test_spaces_after_words_are_refused():
  with pytest.raises(ValueError, match="treat_whitespace_as_suffix"):
    _existing(**_LLAMA2, treat_whitespace_as_suffix=True)
