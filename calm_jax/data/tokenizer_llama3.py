"""The Llama-3 tokenizer, from its rank file or its tokenizer.json.

Byte-pair encoding over the bytes of pre-split words, exact for every text.
Both files give the same ids and the same content hash. They need the packages
`tiktoken` and `tokenizers`, which `pip install '.[tokenizers]'` brings.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import json
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

from etils import epath

from calm_jax import json_files
from calm_jax.config import VocabularyConfig
from calm_jax.data import llama3_json, tokenizer_base

FILE_NAMES = {"rank file": "ranks.tiktoken", "JSON": "tokenizer.json"}

# How Llama 3 splits text into words, before it merges bytes inside them.
PATTERN = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NUM_SPECIAL = 256  # ids after the ranks; the first two begin and end a text
_BEGIN, _END = "<|begin_of_text|>", "<|end_of_text|>"
# The splitting pattern overflows its stack on longer runs.
_LONG_RUN = re.compile(r"\s{20000}|\S{20000}")


class Llama3Tokenizer(tokenizer_base.Tokenizer):
  """Byte-pair encoding with ids in the order of the merges."""

  kind = "llama3"
  is_exact = True

  def __init__(self, data: bytes, name: str = "the tokenizer file"):
    """Reads a rank file, as published by Meta, or a tokenizer.json.

    Args:
      data: the content of the file.
      name: for error messages.

    Raises:
      ValueError: if it is neither, or the package that reads it is missing.
    """
    self._data = data
    is_json = data.lstrip()[:1] == b"{"
    read = _read_json if is_json else _read_ranks
    self._file_kind = "JSON" if is_json else "rank file"
    contents = read(data, name)
    self.pieces, self._encode_all = contents.pieces, contents.encode_all
    begin_id, end_id = contents.begin_id, contents.end_id
    special = {i for i, piece in enumerate(self.pieces) if not piece}
    self.vocabulary = VocabularyConfig(
      size=len(self.pieces),
      begin_id=begin_id,
      end_id=end_id,
      unscored_ids=tuple(sorted(special - {end_id})),
    )
    self.content_hash = tokenizer_base.hash_parts(
      b"llama3",
      PATTERN.encode(),
      str(begin_id).encode(),
      str(end_id).encode(),
      *self.pieces,
      *([contents.merges] if contents.merges else []),
    )

  def _slice(self, text: str) -> Iterator[str]:
    for part in tokenizer_base.slice_text(text):
      start = 0
      for match in _LONG_RUN.finditer(part):
        yield part[start : match.end()]
        start = match.end()
      if start < len(part):
        yield part[start:]

  def _encode_slices(
    self, slices: list[str], is_start: list[bool]
  ) -> list[list[int]]:
    del is_start
    return self._encode_all(slices)

  def _write_files(self, directory: epath.Path) -> None:
    (directory / FILE_NAMES[self._file_kind]).write_bytes(self._data)


_EncodeAll = Callable[[list[str]], list[list[int]]]


class _Contents(NamedTuple):
  """What a file says."""

  pieces: list[bytes]
  begin_id: int
  end_id: int
  encode_all: _EncodeAll
  merges: bytes = b""  # where they are not those that follow from the pieces


def _read_ranks(data: bytes, name: str) -> _Contents:
  """Lines of a base64 piece and its rank, which is its id."""
  ranks: dict[bytes, int] = {}
  for number, line in enumerate(data.splitlines(), start=1):
    try:
      piece, rank = line.split()
      ranks[base64.b64decode(piece, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
      raise ValueError(
        f"{name}, line {number}: a base64 piece and its rank were expected, as"
        f" in a tiktoken file, and {line[:40]!r} found; give a SentencePiece"
        " .model, a tiktoken rank file or a Llama-3 tokenizer.json."
      ) from None
  if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
    raise ValueError(
      f"{name} has {len(ranks)} pieces whose ranks are not 0, 1, 2, … for 256"
      " bytes and more; the file is incomplete."
    )
  pieces = sorted(ranks, key=ranks.__getitem__)
  encoding = _import("tiktoken", name).Encoding(
    "llama3", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={}
  )
  begin_id, end_id = len(ranks), len(ranks) + 1
  return _Contents(
    pieces + [b""] * _NUM_SPECIAL,
    begin_id,
    end_id,
    encoding.encode_ordinary_batch,
  )


def _read_json(data: bytes, name: str) -> _Contents:
  try:
    content = json_files.parse(data.decode("utf-8-sig"), is_finite=False)
  except ValueError as error:
    raise ValueError(
      f"{name} is not readable JSON ({str(error)[:200]}); download it again."
    ) from None
  try:
    reason = llama3_json.why_not(content, PATTERN, (_BEGIN, _END))
  except (AttributeError, KeyError, TypeError, ValueError):
    reason = "a part of it is not of the form that tokenizers writes"
  if reason:
    raise ValueError(
      f"{name} is no Llama-3 tokenizer: {reason}; other tokenizer.json files"
      " cannot be read."
    )
  vocabulary = content["model"]["vocab"]
  added = {token["content"]: token["id"] for token in content["added_tokens"]}
  pieces = [b""] * (len(vocabulary) + len(added))
  to_byte = {character: byte for byte, character in _visible_bytes().items()}
  try:
    for piece, piece_id in vocabulary.items():
      pieces[piece_id] = bytes(map(to_byte.__getitem__, piece))
  except KeyError as error:
    raise ValueError(
      f"{name}: the piece {piece!r} has the character {error}, which stands for"
      " no byte."
    ) from None
  lacking = {bytes([byte]) for byte in range(256)} - set(pieces)
  if lacking:
    raise ValueError(
      f"{name} has no piece for {len(lacking)} of the 256 bytes, such as"
      f" {min(lacking)!r}; text that holds them would be lost."
    )
  package = _import("tokenizers", name)
  plain = json.dumps(llama3_json.plain(content))
  try:
    tokenizer = package.Tokenizer.from_str(plain)
  except Exception as error:  # of this type, whatever is wrong
    raise ValueError(
      f"{name} cannot be read by the package tokenizers: {str(error)[:200]}"
    ) from None

  def encode_all(texts: list[str]) -> list[list[int]]:
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]

  return _Contents(
    pieces,
    added[_BEGIN],
    added[_END],
    encode_all,
    llama3_json.unusual_merges(content["model"]),
  )


def _visible_bytes() -> dict[int, str]:
  """The printable character by which tokenizer.json writes each byte.

  Printable Latin-1 characters stand for themselves, the others for the
  characters from 256 on, in order.
  """
  visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
  hidden = [byte for byte in range(256) if byte not in visible]
  return {byte: chr(byte) for byte in visible} | {
    byte: chr(256 + i) for i, byte in enumerate(hidden)
  }


def _import(package: str, name: str) -> ModuleType:
  try:
    return importlib.import_module(package)
  except ImportError:
    raise ValueError(
      f"{name} needs the package {package}, which is not installed; run"
      " pip install '.[tokenizers]'."
    ) from None
