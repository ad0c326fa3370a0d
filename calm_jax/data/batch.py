"""Rows of token ids become chunks with their masks and document numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from calm_jax.config import VocabularyConfig


class Targets(NamedTuple):
  """What the chunks of a batch are compared with, as targets.

  Attributes:
    tokens: [B, L, K] int32 ids.
    mask: [B, L, K] bool; a chunk counts if it is True all over.
  """

  tokens: np.ndarray
  mask: np.ndarray


class Batch(NamedTuple):
  """Rows of one step, or this host's share of them.

  Attributes:
    tokens: [B, L, K] int32 ids.
    token_mask: [B, L, K] bool, True for real text: the pieces of documents and
      the end id after each; False for begin ids, prompts, fill and padding.
    segment_ids: [B, L] int32, the number within the row of the document that
      holds the chunk's last token.
    row_ids: [B] uint32, the row's place in the global batch (training) or in
      the data set (evaluation); names its random draws.
    targets: what the chunks are compared with as targets; None: `tokens` with
      `token_mask`, see `chunk_targets`.
  """

  tokens: np.ndarray
  token_mask: np.ndarray
  segment_ids: np.ndarray
  row_ids: np.ndarray
  targets: Targets | None = None


class Row(NamedTuple):
  """One row before it is cut into chunks.

  Attributes:
    tokens: [T] int32, `num_fill` end ids and then text; shorter than T at the
      end of the stream.
    num_fill: end ids in front that are not text.
    row_id: see `Batch.row_ids`.
    is_prompt: [n] bool, tokens that are no targets; None: none.
  """

  tokens: np.ndarray
  num_fill: int
  row_id: int
  is_prompt: np.ndarray | None = None


def make_batch(
  rows: list[Row],
  vocabulary: VocabularyConfig,
  *,
  row_length: int,
  chunk_size: int,
  batch_size: int | None = None,
) -> Batch:
  """Pads rows with end ids and cuts them into chunks.

  Args:
    rows: at most B.
    vocabulary: for its begin and end ids.
    row_length: T, a multiple of K.
    chunk_size: K.
    batch_size: B; rows that are missing are wholly masked. None: as given.

  Returns:
    The batch.
  """
  size = len(rows) if batch_size is None else batch_size
  shape = (size, row_length // chunk_size, chunk_size)
  tokens = np.full((size, row_length), vocabulary.end_id, np.int32)
  mask = np.zeros((size, row_length), bool)
  row_ids = np.zeros(size, np.uint32)
  for i, row in enumerate(rows):
    tokens[i, : len(row.tokens)] = row.tokens
    mask[i, row.num_fill : len(row.tokens)] = True
    if row.is_prompt is not None:
      mask[i, : len(row.tokens)] &= ~row.is_prompt
    row_ids[i] = row.row_id
  is_begin = tokens == vocabulary.begin_id
  mask &= ~is_begin
  segments = np.cumsum(is_begin, axis=1, dtype=np.int32)
  return Batch(
    tokens=tokens.reshape(shape),
    token_mask=mask.reshape(shape),
    segment_ids=segments.reshape(shape)[:, :, -1].copy(),
    row_ids=row_ids,
  )


def chunk_targets(batch: Batch, closing_id: int | None) -> Targets:
  """The chunks as targets, those that a document ends in closed if asked.

  What follows an end id in its chunk is another document's beginning or
  padding, and no model is asked for it: generation stops there and fills with
  end ids. A target that does the same lets every document's end be learnt, and
  not only one in K, those that happen to stand last in a chunk. Begin ids and
  fill before an end id keep a chunk from counting all the same.

  Args:
    batch: NumPy or JAX arrays.
    closing_id: the end id; None: the tokens and their mask as they are.

  Returns:
    Arrays of the same kind.
  """
  if batch.targets is not None:
    return batch.targets
  if closing_id is None:
    return Targets(batch.tokens, batch.token_mask)
  is_closed = _is_after((batch.tokens == closing_id) & batch.token_mask)
  xp = batch.tokens.__array_namespace__()
  return Targets(
    xp.where(is_closed, closing_id, batch.tokens), batch.token_mask | is_closed
  )


def close(tokens: np.ndarray, closing_id: int | None) -> np.ndarray:
  """Drawn chunks, [..., K] ids, as `chunk_targets` closes those of text."""
  if closing_id is None:
    return tokens
  xp = tokens.__array_namespace__()
  return xp.where(_is_after(tokens == closing_id), closing_id, tokens)


def _is_after(is_end: np.ndarray) -> np.ndarray:
  """[..., K] bool: True behind the first True of the last axis."""
  is_end = is_end.astype(np.int32)
  return is_end.cumsum(axis=-1) > is_end


def random_fill(seed: int, example: int, chunk_size: int) -> int:
  """Number of end ids in front of a training row, uniform on 0 … K − 1.

  Documents start anywhere in a chunk and a prompt must end on a chunk's
  boundary, so the first chunk of a prompt is filled on the left; the fill
  teaches the model this.

  Args:
    seed: of the data order.
    example: the row's number in the whole run, whatever the hosts.
    chunk_size: K.

  Returns:
    r, from 0 to K − 1.
  """
  key = np.array([seed & (2**64 - 1), example], np.uint64)
  # Raw bits: NumPy keeps them the same in every release. K is small against
  # 2^64, so the remainder is uniform to 1e-18.
  return int(np.random.Philox(key=key).random_raw() % chunk_size)
