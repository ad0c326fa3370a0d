"""Tests calm_jax/data/tokenizer_ids.py."""

import pytest

from calm_jax.config import VocabularyConfig
from calm_jax.data.tokenizer import IdTokenizer, load_tokenizer


def _tokenizer():
  return IdTokenizer(VocabularyConfig(size=12, begin_id=1, end_id=2))


def test_numbers_stand_for_themselves():
  tokenizer = _tokenizer()
  assert tokenizer.encode("3 11\n0").tolist() == [3, 11, 0]
  assert tokenizer.decode([1, 3, 11, 0, 2]) == " 3 11 0"


@pytest.mark.parametrize("text", ["3 twelve", "12", "-1", "٣x"])
def test_anything_else_is_named(text):
  with pytest.raises(ValueError, match="is no token id"):
    _tokenizer().encode(text)


def test_it_is_found_again_where_it_was_saved(tmp_path):
  tokenizer = _tokenizer()
  tokenizer.save(tmp_path)
  found = load_tokenizer(tmp_path)
  assert found.content_hash == tokenizer.content_hash
  assert found.vocabulary == tokenizer.vocabulary
  other = IdTokenizer(VocabularyConfig(size=13, begin_id=1, end_id=2))
  assert other.content_hash != tokenizer.content_hash


def test_a_damaged_file_is_named(tmp_path):
  _tokenizer().save(tmp_path)
  (tmp_path / "ids.json").write_text("{")
  with pytest.raises(ValueError, match=r"ids.json is damaged"):
    load_tokenizer(tmp_path)
