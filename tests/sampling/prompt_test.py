"""Tests sampling/prompt.py."""

import numpy as np
import pytest

from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.sampling.prompt import (
  check_context,
  encode_prompt,
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
