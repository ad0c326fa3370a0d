"""What a SentencePiece model says about white space, from its own fields.

A `.model` file is a serialised protocol buffer, `ModelProto` of SentencePiece's
sentencepiece_model.proto; its numbers of fields stand here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

_TRAINER, _NORMALIZER = 2, 3  # fields of ModelProto
_CHARSMAP, _PREFIX, _REMOVE, _ESCAPE = 2, 3, 4, 5  # of NormalizerSpec
_SUFFIX = 24  # of TrainerSpec

# Appended to a model: a message written twice is merged, and the later value
# of a field holds. This one says add_dummy_prefix: false.
WITHOUT_PREFIX = bytes([_NORMALIZER << 3 | 2, 2, _PREFIX << 3, 0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The fields that change text on its way to pieces."""

  adds_prefix: bool = True  # a space before each text
  removes_spaces: bool = True  # all but one between words, and at both ends
  escapes_spaces: bool = True  # as U+2581
  normalizes: bool = False  # characters become others
  prefix_is_suffix: bool = False  # spaces belong to the word before them


def read_settings(model: bytes) -> Settings:
  """Reads a serialised model.

  Args:
    model: the bytes of a `.model` file.

  Returns:
    Its settings; what it does not say has SentencePiece's defaults.

  Raises:
    ValueError: if it is no protocol buffer.
  """
  normalizer: dict[int, int | bytes] = {}
  trainer: dict[int, int | bytes] = {}
  for number, value in _fields(model):
    for wanted, spec in ((_NORMALIZER, normalizer), (_TRAINER, trainer)):
      if number == wanted and isinstance(value, bytes):
        spec.update(_fields(value))
  return Settings(
    adds_prefix=bool(normalizer.get(_PREFIX, True)),
    removes_spaces=bool(normalizer.get(_REMOVE, True)),
    escapes_spaces=bool(normalizer.get(_ESCAPE, True)),
    normalizes=bool(normalizer.get(_CHARSMAP, b"")),
    prefix_is_suffix=bool(trainer.get(_SUFFIX, False)),
  )


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
  """Number and value of each field, in their order."""
  at = 0
  while at < len(message):
    key, at = _varint(message, at)
    kind = key & 7
    if kind == 0:
      value, at = _varint(message, at)
    elif kind in (1, 2, 5):
      size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
      value, at = message[at : at + size], at + size
    else:
      raise ValueError(f"a field of kind {kind}")
    if at > len(message):
      raise ValueError("a field that is cut short")
    yield key >> 3, value


def _varint(message: bytes, at: int) -> tuple[int, int]:
  """Seven bits a byte, the lowest first; the number and where it ends."""
  value = 0
  for shift in range(0, 70, 7):
    if at >= len(message):
      break
    byte = message[at]
    at += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      return value, at
  raise ValueError("a number that does not end")
