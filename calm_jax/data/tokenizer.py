"""Finds the tokenizer of a path: bytes, ids, SentencePiece or Llama-3."""

from __future__ import annotations

from etils import epath

from calm_jax import json_files, paths
from calm_jax.data import (
  tokenizer_base,
  tokenizer_llama3,
  tokenizer_sentencepiece,
)
from calm_jax.data.tokenizer_base import Tokenizer
from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.data.tokenizer_ids import FILE_NAME, IdTokenizer
from calm_jax.data.tokenizer_llama3 import Llama3Tokenizer
from calm_jax.data.tokenizer_sentencepiece import SentencePieceTokenizer

__all__ = [
  "ByteTokenizer",
  "IdTokenizer",
  "Llama3Tokenizer",
  "SentencePieceTokenizer",
  "Tokenizer",
  "load_tokenizer",
]

_MODEL_FILES = (
  tokenizer_sentencepiece.MODEL_FILE,
  *tokenizer_llama3.FILE_NAMES.values(),
)


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
  """Reads a tokenizer.

  Args:
    path: a directory written by `Tokenizer.save`, or one that has it as
      `tokenizer/`, or a file: a SentencePiece model, a tiktoken rank file or a
      Llama-3 tokenizer.json.

  Returns:
    The tokenizer.

  Raises:
    OSError: if the path does not exist.
    ValueError: if it is not a tokenizer, or not the one that was saved.
  """
  path = paths.expanded(path)
  if not path.exists():
    raise FileNotFoundError(
      f"there is no tokenizer at {path}; give a SentencePiece .model, a Llama-3"
      " file or a directory that holds a tokenizer."
    )
  if path.is_dir():
    return _load_directory(path)
  return _read_file(path)


def _load_directory(path: epath.Path) -> Tokenizer:
  if (path / "tokenizer" / tokenizer_base.INFO_FILE).exists():
    path = path / "tokenizer"
  info_file = path / tokenizer_base.INFO_FILE
  if not info_file.exists():
    raise ValueError(
      f"{path} holds no {tokenizer_base.INFO_FILE}; give a tokenizer file or"
      " the tokenizer/ directory of prepared data or of a run."
    )
  try:
    info = json_files.read_json(info_file)
    version, content_hash = info["format_version"], info["content_hash"]
    kind, padded_size = info["kind"], info.get("padded_size")
  except (AttributeError, ValueError, KeyError, TypeError):
    raise ValueError(
      f"{info_file} is damaged; copy the tokenizer/ directory again."
    ) from None
  if version != tokenizer_base.FORMAT_VERSION:
    raise ValueError(
      f"{path} was written in format {version}; this version reads format"
      f" {tokenizer_base.FORMAT_VERSION}."
    )
  if kind == ByteTokenizer.kind:
    tokenizer = ByteTokenizer()
  elif kind == IdTokenizer.kind:
    tokenizer = IdTokenizer.read(path / FILE_NAME)
  elif kind in (SentencePieceTokenizer.kind, Llama3Tokenizer.kind):
    tokenizer = _read_file_of(path)
  else:
    raise ValueError(
      f"{path} holds a tokenizer of kind {kind!r}, which this version does not"
      " know; it was written by another."
    )
  if padded_size is not None:
    # The hash first: a damaged size may be beyond all memory.
    found_hash = tokenizer.padded_hash(padded_size)
    if found_hash == content_hash:
      tokenizer.pad(padded_size)
  else:
    found_hash = tokenizer.content_hash
  if found_hash != content_hash:
    raise ValueError(
      f"the tokenizer in {path} is not the one that was saved there: its"
      f" content hash is {found_hash[:12]}, and {str(content_hash)[:12]} was"
      " written down; copy its files again."
    )
  return tokenizer


def _read_file_of(directory: epath.Path) -> Tokenizer:
  for name in _MODEL_FILES:
    if (directory / name).exists():
      return _read_file(directory / name)
  raise ValueError(
    f"{directory} lacks its tokenizer file; one of {', '.join(_MODEL_FILES)}"
    " was expected."
  )


def _read_file(path: epath.Path) -> Tokenizer:
  data = path.read_bytes()
  if not data:
    raise ValueError(f"{path} is empty; a tokenizer file was expected.")
  # A serialised SentencePiece model starts with the tag of its first piece.
  if data[:1] == b"\n":
    return SentencePieceTokenizer(data, name=str(path))
  return Llama3Tokenizer(data, name=str(path))
