"""Tests sampling/text_stream.py."""

import numpy as np
import pytest

from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.sampling.text_stream import TextStream


def _pieces(text, size, stop=()):
  stream = TextStream(ByteTokenizer(), stop)
  ids = np.frombuffer(text.encode(), np.uint8)
  starts = range(0, len(ids), size)
  pieces = [
    stream.add(ids[i : i + size], is_last=i + size >= len(ids)) for i in starts
  ]
  return pieces, stream


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_characters_are_never_broken(size):
  text = "aé€😀\n\u2581漢字, done"
  pieces, stream = _pieces(text, size)
  assert "".join(pieces) == text == stream.text
  assert "\ufffd" not in "".join(pieces)


def test_a_character_cut_off_at_the_end_is_marked():
  stream = TextStream(ByteTokenizer())
  assert stream.add([0x61, 0xE2, 0x82]) == "a"
  assert stream.add([], is_last=True) == "\ufffd"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
@pytest.mark.parametrize(
  ("stop", "expected"),
  [
    (["STOP"], "one STO two "),
    (["ST", "STOP"], "one "),
    (["zzz"], "one STO two STOP three"),
    (["three"], "one STO two STOP "),
    (["two ", "STOP"], "one STO "),
    (["wo S", "o"], ""),
    (["TO two", "O"], "one ST"),
    (["O two", "two"], "one ST"),
    ("STOP", "one STO two "),
    ([""], "one STO two STOP three"),
  ],
)
def test_stops_where_it_is_told(size, stop, expected):
  pieces, stream = _pieces("one STO two STOP three", size, stop)
  assert "".join(pieces) == expected == stream.text
  assert stream.is_stopped == (expected != "one STO two STOP three")


def test_what_may_become_a_stop_string_is_held_back():
  stream = TextStream(ByteTokenizer(), ["\n\n"])
  assert stream.add(list(b"a\n")) == "a"
  assert stream.add(list(b"b")) == "\nb"
  assert stream.add(list(b"\n\nc")) == ""
  assert stream.is_stopped
  assert stream.add(list(b"d")) == ""
