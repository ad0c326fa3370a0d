"""Bytes as tokens: nothing to train, exact for every text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from calm_jax.config import VocabularyConfig
from calm_jax.data import tokenizer_base


class ByteTokenizer(tokenizer_base.Tokenizer):
  """Ids 0 … 255 are the bytes of UTF-8, 256 begins and 257 ends a document."""

  kind = "bytes"

  def __init__(self):
    self.vocabulary = VocabularyConfig(
      size=258, begin_id=256, end_id=257, unscored_ids=(256,)
    )
    self.pieces = [bytes([i]) for i in range(256)] + [b"", b""]
    self.content_hash = tokenizer_base.hash_parts(b"bytes", b"256", b"257")

  def _slice(self, text: str) -> Iterable[str]:
    return [text]

  def _encode_slices(
    self, slices: list[str], is_start: list[bool]
  ) -> Sequence[Sequence[int]]:
    del is_start
    return [np.frombuffer(text.encode(), np.uint8) for text in slices]

  def _write_files(self, directory: epath.Path) -> None:
    pass
