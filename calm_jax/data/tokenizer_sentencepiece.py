"""SentencePiece, trained so that every text comes back exactly."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator

import sentencepiece
from etils import epath

from calm_jax.config import VocabularyConfig
from calm_jax.data import tokenizer_base
from calm_jax.data.sentencepiece_settings import WITHOUT_PREFIX, read_settings

MODEL_FILE = "sentencepiece.model"

_SPACE = "\u2581"  # stands for a space inside SentencePiece
_NEWLINE = "\n"
_MAX_SENTENCE = 10_000  # characters; longer lines are cut for training


class SentencePieceTokenizer(tokenizer_base.Tokenizer):
  """A SentencePiece model; begin and end ids are added if it lacks them."""

  kind = "sentencepiece"

  def __init__(self, model: bytes, name: str = "the SentencePiece model"):
    """Reads a serialised model.

    Args:
      model: the bytes of a `.model` file.
      name: for error messages.
    """
    try:
      self._settings = read_settings(model)
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
      # For what does not begin a text.
      self._inner = self._processor
      if self._settings.adds_prefix:
        self._inner = sentencepiece.SentencePieceProcessor(
          model_proto=model + WITHOUT_PREFIX
        )
      size = self._processor.vocab_size()
    except (RuntimeError, ValueError):
      size = 0
    if not size:
      raise ValueError(
        f"{name} is not a SentencePiece model; give a .model file written by"
        " SentencePiece or prepare the data with --vocab_size=N."
      )
    if self._settings.prefix_is_suffix:
      raise ValueError(
        f"{name} keeps spaces at the end of words (treat_whitespace_as_suffix),"
        " which cannot be read; give a model that does not."
      )
    self._model = model
    self.content_hash = tokenizer_base.hash_parts(b"sentencepiece", model)
    self.pieces = [self._piece_bytes(i) for i in range(size)]
    begin_id, end_id = self._processor.bos_id(), self._processor.eos_id()
    for _ in range((begin_id < 0) + (end_id < 0)):
      self.pieces.append(b"")
    if begin_id < 0:
      begin_id = size
    if end_id < 0:
      end_id = len(self.pieces) - 1
    self._byte_ids = [
      self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()
    ]
    self._has_bytes = all(map(self._processor.is_byte, self._byte_ids))
    # Without pieces for bytes, text does hold the unknown id.
    unscored = {begin_id} | {
      i
      for i in range(size)
      if self._processor.is_control(i)
      or self._processor.is_unused(i)
      or (self._has_bytes and self._processor.is_unknown(i))
    }
    self.vocabulary = VocabularyConfig(
      size=len(self.pieces),
      begin_id=begin_id,
      end_id=end_id,
      unscored_ids=tuple(sorted(unscored - {end_id})),
    )
    self.is_exact = self._has_bytes and not (
      self._settings.removes_spaces or self._settings.normalizes
    )
    newline = self._inner.encode(_NEWLINE)
    # Slices give the ids of the whole where no piece lies across their ends.
    self._is_sliceable = (
      self.is_exact
      and self._inner.encode(_NEWLINE * 2) == newline * 2
      and not any(
        re.search(rb"[^ ] |\n[^\n]", piece, re.DOTALL) for piece in self.pieces
      )
    )

  def decode(self, ids: Iterable[int], is_start: bool = True) -> str:
    text = super().decode(ids)
    if is_start and self._settings.adds_prefix:
      return text.removeprefix(" ")
    return text

  def _slice(self, text: str) -> Iterator[str]:
    is_split = self._has_bytes and self._settings.escapes_spaces
    parts = text.split(_SPACE) if is_split else [text]
    for i, part in enumerate(parts):
      if i:
        yield _SPACE
      if self._is_sliceable:
        yield from tokenizer_base.slice_text(part)
      else:
        yield part

  def _encode_slices(
    self, slices: list[str], is_start: list[bool]
  ) -> list[list[int]]:
    lists: list[list[int]] = [[] for _ in slices]
    # A model that removes spaces has removed the one before a later part,
    # and puts the prefix in its place.
    is_first = [start or self._settings.removes_spaces for start in is_start]
    for wanted, processor in ((True, self._processor), (False, self._inner)):
      here = [i for i, first in enumerate(is_first) if first == wanted]
      num_threads = -1 if len(here) > 1 else 1
      found = processor.encode(
        [slices[i] for i in here], num_threads=num_threads
      )
      for i, ids in zip(here, found, strict=True):
        lists[i] = ids
    if not (self._has_bytes and self._settings.escapes_spaces):
      return lists
    # SentencePiece reads U+2581 as a space; its bytes say it exactly.
    return [
      self._byte_ids if text == _SPACE else ids
      for text, ids in zip(slices, lists, strict=True)
    ]

  def _num_added(self, text: str, starts: bool) -> int:
    is_prefixed = starts and self._settings.adds_prefix and text
    # U+2581 stands for itself, and nothing before it.
    is_escaped = self._settings.escapes_spaces and text.startswith(_SPACE)
    return int(bool(is_prefixed) and not is_escaped)

  def _piece_bytes(self, piece_id: int) -> bytes:
    processor = self._processor
    piece = processor.id_to_piece(piece_id)
    if processor.is_control(piece_id) or processor.is_unused(piece_id):
      return b""
    if processor.is_unknown(piece_id):
      return "\ufffd".encode()
    if processor.is_byte(piece_id):
      return bytes([int(piece[3:5], 16)])
    if self._settings.escapes_spaces:
      piece = piece.replace(_SPACE, " ")
    return piece.encode()

  def _write_files(self, directory: epath.Path) -> None:
    (directory / MODEL_FILE).write_bytes(self._model)


def train(texts: Iterable[str], vocab_size: int) -> SentencePieceTokenizer:
  """Trains byte-pair encoding that loses nothing.

  Unknown characters fall back to bytes, no character is normalised, spaces
  are kept as they are and a newline is always one token.

  Args:
    texts: to learn the pieces from, all held in memory by SentencePiece.
    vocab_size: V, the 256 bytes, begin, end, unknown and newline included.

  Returns:
    The tokenizer.

  Raises:
    ValueError: if the texts are empty or do not give so many pieces.
  """
  model = io.BytesIO()
  lines = _training_lines(texts)
  first = next(lines, None)
  if first is None:
    raise ValueError(
      "there is no text to train a tokenizer on; give input that is not"
      " empty, or --tokenizer=FILE or --bytes."
    )
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_chain(first, lines),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size,
      byte_fallback=True,
      normalization_rule_name="identity",
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      allow_whitespace_only_pieces=True,
      user_defined_symbols=[_NEWLINE],
      required_chars=_SPACE,  # however rare; as bytes it would be no space
      unk_id=0,
      bos_id=1,
      eos_id=2,
      pad_id=-1,
      max_sentence_length=4 * _MAX_SENTENCE + 4,  # bytes
      minloglevel=3,
    )
  except (RuntimeError, OSError) as error:
    raise ValueError(_explain(vocab_size, str(error))) from None
  return SentencePieceTokenizer(model.getvalue())


def _explain(vocab_size: int, message: str) -> str:
  """Says in our words why SentencePiece did not train."""
  if most := re.search(r"value <= (\d+)", message):
    return (
      f"vocab_size {vocab_size} is more than this text has pieces for; give"
      f" {most[1]} at most, or more text."
    )
  if least := re.search(r"\d+ vs (\d+)", message):
    return (
      f"vocab_size {vocab_size} is too small; this text needs {least[1]} at"
      " least, for the bytes and its characters."
    )
  return (
    f"SentencePiece could not train {vocab_size} pieces:"
    f" {' '.join(message.split())}"
  )


def _training_lines(texts: Iterable[str]) -> Iterator[str]:
  for text in texts:
    tokenizer_base.check_encodable(text)
    for line in text.replace(_SPACE, " ").split(_NEWLINE):
      for start in range(0, len(line), _MAX_SENTENCE):
        yield line[start : start + _MAX_SENTENCE]


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
  yield first
  yield from rest
