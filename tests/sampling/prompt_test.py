"""Tests sampling/prompt.py."""

import numpy as np
import pytest

from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.sampling.prompt import (
  check_context,
  encode_prompt,
  read_prompts,
  stack_prompts,
)

_BEGIN, _END = 256, 257


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("", [[_END, _END, _END, _BEGIN]]),
    ("abc", [[_BEGIN, 97, 98, 99]]),
    ("abcd", [[_END, _END, _END, _BEGIN], [97, 98, 99, 100]]),
    ("abcdef", [[_END, _BEGIN, 97, 98], [99, 100, 101, 102]]),
  ],
)
def test_fills_the_first_chunk_on_the_left(text, expected):
  found = encode_prompt(text, ByteTokenizer(), 4)
  np.testing.assert_array_equal(found, expected)


def test_puts_prompts_side_by_side():
  prompts = [encode_prompt(text, ByteTokenizer(), 2) for text in ("abc", "a")]
  found = stack_prompts(prompts, _END)
  np.testing.assert_array_equal(found.num_chunks, [2, 1])
  np.testing.assert_array_equal(
    found.tokens,
    [[[_BEGIN, 97], [98, 99]], [[_BEGIN, 97], [_END, _END]]],
  )


def test_refuses_what_exceeds_the_context():
  check_context(6, 4, 10, chunk_size=4)
  with pytest.raises(ValueError, match="at most 12 tokens"):
    check_context(7, 4, 10, chunk_size=4)


@pytest.mark.parametrize(
  ("content", "expected"),
  [
    ("one\ntwo\n", ["one", "two"]),
    ("one\r\ntwo", ["one", "two"]),
    ("one\n\ntwo\n", ["one", "", "two"]),
    ("\ufeffone\n\ufefftwo", ["one", "\ufefftwo"]),
    ("a\x85b\x0cc\u2028d\x1ce\x0bf\rg\n", ["a\x85b\x0cc\u2028d\x1ce\x0bf\rg"]),
    (" a \t\n", [" a \t"]),
    ("\n", [""]),
  ],
)
def test_a_prompt_ends_with_its_line(tmp_path, content, expected):
  (tmp_path / "a.txt").write_bytes(content.encode())
  assert read_prompts(tmp_path / "a.txt") == expected


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "holds no prompt"),
    ("\ufeff".encode(), "holds no prompt"),
    (b"a\ncaf\xe9\n", "a.txt, line 2: byte 0xE9 at offset 5 of the file"),
  ],
)
def test_what_holds_no_prompts_is_named(tmp_path, content, message):
  (tmp_path / "a.txt").write_bytes(content)
  with pytest.raises(ValueError, match=message):
    read_prompts(tmp_path / "a.txt")
