"""Finds the tokenizer of a path: ours, SentencePiece, Llama-3."""

from __future__ import annotations

import json

from etils import epath

from calm_jax.data import tokenizer_base, tokenizer_sentencepiece
from calm_jax.data.tokenizer_base import Tokenizer
from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.data.tokenizer_sentencepiece import SentencePieceTokenizer

__all__ = [
  "ByteTokenizer",
  "SentencePieceTokenizer",
  "Tokenizer",
  "load_tokenizer",
]


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
  """Reads a tokenizer.

  Args:
    path: a directory written by `Tokenizer.save`, or a SentencePiece model.

  Returns:
    The tokenizer.

  Raises:
    OSError: if the path does not exist.
    ValueError: if it is not a tokenizer, or not the one that was saved.
  """
  path = epath.Path(path)
  if not path.exists():
    raise FileNotFoundError(
      f"there is no tokenizer at {path}; give a SentencePiece .model or a"
      " directory that holds a tokenizer."
    )
  if path.is_dir():
    return _load_directory(path)
  return SentencePieceTokenizer(path.read_bytes(), name=str(path))


def _load_directory(path: epath.Path) -> Tokenizer:
  info_file = path / tokenizer_base.INFO_FILE
  if not info_file.exists():
    raise ValueError(
      f"{path} holds no {tokenizer_base.INFO_FILE}; give a tokenizer file or"
      " the tokenizer/ directory of prepared data or of a run."
    )
  info = json.loads(info_file.read_text())
  if info["kind"] == ByteTokenizer.kind:
    tokenizer = ByteTokenizer()
  else:
    model_file = path / tokenizer_sentencepiece.MODEL_FILE
    tokenizer = SentencePieceTokenizer(model_file.read_bytes(), str(model_file))
  if tokenizer.content_hash != info["content_hash"]:
    raise ValueError(
      f"the tokenizer in {path} is not the one that was saved there: its"
      f" content hash is {tokenizer.content_hash[:12]}, and"
      f" {info['content_hash'][:12]} was written down; restore its files."
    )
  return tokenizer
