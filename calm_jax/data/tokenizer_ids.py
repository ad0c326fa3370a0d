"""Token ids written as numbers, for weights that came without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from etils import epath

from calm_jax import json_files
from calm_jax.config import VocabularyConfig
from calm_jax.data import tokenizer_base

FILE_NAME = "ids.json"


class IdTokenizer(tokenizer_base.Tokenizer):
  """The text "17 4 256" stands for the ids 17, 4 and 256."""

  kind = "ids"

  def __init__(self, vocabulary: VocabularyConfig):
    """Takes the ids of a model.

    Args:
      vocabulary: its number of ids, and those that begin and end a document.
    """
    self.vocabulary = vocabulary
    self._ids = {
      name: getattr(vocabulary, name) for name in ("size", "begin_id", "end_id")
    }
    control = {vocabulary.begin_id, vocabulary.end_id}
    self.pieces = [
      b"" if i in control else b" %d" % i for i in range(vocabulary.size)
    ]
    self.content_hash = tokenizer_base.hash_parts(
      b"ids", *(str(value).encode() for value in self._ids.values())
    )

  @classmethod
  def read(cls, path: epath.Path) -> IdTokenizer:
    """Reads what `save` wrote; raises ValueError if it is damaged."""
    try:
      return cls(VocabularyConfig(**json_files.read_json(path)))
    except (ValueError, TypeError):
      raise ValueError(
        f"{path} is damaged; copy the tokenizer/ directory again."
      ) from None

  def _slice(self, text: str) -> Iterable[str]:
    return [text]

  def _encode_slices(
    self, slices: list[str], is_start: list[bool]
  ) -> Sequence[Sequence[int]]:
    del is_start
    return [[self._read_id(word) for word in text.split()] for text in slices]

  def _read_id(self, word: str) -> int:
    if word.isdecimal() and len(word) < 20 and int(word) < self.vocabulary.size:
      return int(word)
    raise ValueError(
      f"{word[:20]!r} is no token id: these weights came without a tokenizer,"
      f" so text is written as numbers from 0 to {self.vocabulary.size - 1};"
      " convert them again with --tokenizer to read words."
    )

  def _write_files(self, directory: epath.Path) -> None:
    json_files.write_json(directory / FILE_NAME, self._ids)
