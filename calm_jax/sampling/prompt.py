"""Prompts as rows of whole chunks."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from calm_jax import paths
from calm_jax.data.tokenizer import Tokenizer
from calm_jax.text_files import read_lines


class Prompts(NamedTuple):
  """R prompts side by side."""

  tokens: np.ndarray  # [R, P, K] int32; end ids after a shorter prompt
  num_chunks: np.ndarray  # [R] int32, of each prompt, at least 1


def read_prompts(path: epath.PathLike) -> list[str]:
  """Reads a file with one prompt a line; an empty line is an empty prompt.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is empty or not UTF-8.
  """
  prompts = read_lines(paths.expanded(path))
  if not prompts:
    raise ValueError(f"{path} holds no prompt; write one a line.")
  return prompts


def prompt_id(tokens: np.ndarray) -> int:
  """CRC-32 of a prompt's ids, so that its draws depend on no other prompt."""
  return zlib.crc32(np.asarray(tokens, "<i4").tobytes())


def encode_prompt(
  text: str, tokenizer: Tokenizer, chunk_size: int
) -> np.ndarray:
  """Turns a prompt into whole chunks.

  A prompt ends on a chunk's boundary, so that what follows starts a chunk: its
  *first* chunk is filled on the left with end ids, before the begin id.

  Deviation: the authors fill the last chunk, between prompt and continuation,
  with an embedding that was never trained.

  Args:
    text: may be empty.
    tokenizer: that of the run.
    chunk_size: K.

  Returns:
    [P, K] int32.
  """
  vocabulary = tokenizer.vocabulary
  ids = np.append(np.int32(vocabulary.begin_id), tokenizer.encode(text))
  num_fill = -len(ids) % chunk_size
  ids = np.pad(ids, (num_fill, 0), constant_values=vocabulary.end_id)
  return ids.reshape(-1, chunk_size).astype(np.int32)


def stack_prompts(prompts: Sequence[np.ndarray], end_id: int) -> Prompts:
  """Puts prompts [P_r, K] of different lengths side by side."""
  num_chunks = np.array([len(prompt) for prompt in prompts], np.int32)
  shape = (len(prompts), num_chunks.max(), prompts[0].shape[1])
  tokens = np.full(shape, end_id, np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[: len(prompt)] = prompt
  return Prompts(tokens, num_chunks)


def check_context(
  num_prompt_chunks: int, num_new_chunks: int, max_chunks: int, chunk_size: int
) -> None:
  """Refuses what would go beyond the rows the model was trained on.

  Args:
    num_prompt_chunks: of the longest prompt.
    num_new_chunks: to be generated.
    max_chunks: L, chunks of a training row.
    chunk_size: K.

  Raises:
    ValueError: if prompt and continuation do not fit.
  """
  if num_prompt_chunks + num_new_chunks > max_chunks:
    room = max(0, max_chunks - num_prompt_chunks) * chunk_size
    raise ValueError(
      f"a prompt of {num_prompt_chunks * chunk_size} tokens and"
      f" {num_new_chunks * chunk_size} new ones exceed the model's context of"
      f" {max_chunks * chunk_size}; ask for at most {room} tokens, or shorten"
      " the prompt."
    )
