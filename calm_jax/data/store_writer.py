"""Writes the flat stream of each split, block by block, as it comes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from calm_jax.config import VocabularyConfig
from calm_jax.data import store_layout

# A row of 2048 tokens touches one or two blocks; a block takes about 60 µs to
# read and parse, whatever its size up to some ten thousand tokens.
BLOCK_SIZE = 4096
_SHARD_SIZE = 256 << 20  # bytes of one array_record file
_NUM_BUFFERED_BLOCKS = 256


class StreamWriter:
  """Appends documents to splits of one array_record data set.

  The data set is written by TFDS' sequential writer: its builders hold a split
  in memory until it is complete, and a corpus may be larger than that.
  """

  def __init__(
    self,
    directory: epath.Path,
    vocabulary: VocabularyConfig,
    splits: tuple[str, ...],
    *,
    has_prompts: bool = False,
  ):
    """Starts a data set in an empty directory.

    Args:
      directory: of the data set.
      vocabulary: of the ids.
      splits: their names.
      has_prompts: ids of prompts are stored as −1 − id, see `store_layout`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    is_small = vocabulary.size <= 1 << (15 if has_prompts else 16)
    small = np.int16 if has_prompts else np.uint16
    self._dtype = np.dtype(small if is_small else np.int32)
    features = tfds.features.FeaturesDict(
      {
        "tokens": tfds.features.Tensor(
          shape=(BLOCK_SIZE,), dtype=self._dtype, encoding="bytes"
        )
      }
    )
    identity = tfds.core.DatasetIdentity(
      name="tokens",
      version=tfds.core.Version("1.0.0"),
      data_dir=str(directory),
      module_name=__name__,
    )
    self._writer = tfds.core.SequentialWriter(
      tfds.core.DatasetInfo(builder=identity, features=features),
      max_examples_per_shard=_SHARD_SIZE // (BLOCK_SIZE * self._dtype.itemsize),
      file_format="array_record",
    )
    self._splits = {
      name: _Split(self._writer, name, vocabulary, self._dtype)
      for name in splits
    }

  def add(
    self,
    split: str,
    tokens: np.ndarray,
    *,
    is_first: bool,
    is_last: bool,
    is_prompt: bool = False,
  ) -> None:
    """Appends a document, or a part of one, to the stream.

    Args:
      split: one of the splits.
      tokens: [n] int32, without begin and end ids.
      is_first: a begin id comes before it.
      is_last: an end id comes after it.
      is_prompt: it is no target.
    """
    if is_prompt:
      tokens = store_layout.mark(tokens)
    self._splits[split].add(tokens, is_first, is_last)

  def close(self) -> dict[str, dict[str, Any]]:
    """Finishes the data set.

    Returns:
      For each split its number of tokens and documents and the sha256 of what
      is stored as little-endian int32.
    """
    result = {name: split.close() for name, split in self._splits.items()}
    with _write_errors():
      self._writer.close_all()
    return result


class _Split:
  """The part of a split's stream that does not fill its blocks yet."""

  def __init__(
    self,
    writer: tfds.core.SequentialWriter,
    name: str,
    vocabulary: VocabularyConfig,
    dtype: np.dtype,
  ):
    self._writer = writer
    self._name = name
    self._begin = np.array([vocabulary.begin_id], np.int32)
    self._end = np.array([vocabulary.end_id], np.int32)
    self._dtype = dtype
    self._buffer: list[np.ndarray] = []
    self._num_buffered = 0
    self._num_tokens = 0
    self._num_documents = 0
    self._digest = hashlib.sha256()
    self._is_started = False

  def add(self, tokens: np.ndarray, is_first: bool, is_last: bool) -> None:
    pieces = [self._begin] * is_first + [tokens] + [self._end] * is_last
    for piece in pieces:
      self._digest.update(piece.astype("<i4").data)
      self._buffer.append(piece.astype(self._dtype))
      self._num_buffered += len(piece)
      self._num_tokens += len(piece)
    self._num_documents += is_last
    if self._num_buffered >= _NUM_BUFFERED_BLOCKS * BLOCK_SIZE:
      self._flush()

  def close(self) -> dict[str, Any]:
    padding = -self._num_tokens % BLOCK_SIZE
    self._buffer.append(
      np.full(padding, self._end[0], self._dtype)  # never read
    )
    self._num_buffered += padding
    self._flush()
    return {
      "num_tokens": self._num_tokens,
      "num_documents": self._num_documents,
      "sha256": self._digest.hexdigest(),
    }

  def _flush(self) -> None:
    """Writes the blocks that are full."""
    tokens = np.concatenate(self._buffer)
    num_blocks = len(tokens) // BLOCK_SIZE
    blocks = tokens[: num_blocks * BLOCK_SIZE].reshape(num_blocks, BLOCK_SIZE)
    with _write_errors():
      if num_blocks and not self._is_started:
        # A split without examples cannot be opened, so it is not begun.
        self._writer.initialize_splits([self._name])
        self._is_started = True
      if num_blocks:
        self._writer.add_examples(
          {self._name: [{"tokens": block} for block in blocks]}
        )
    self._buffer = [tokens[num_blocks * BLOCK_SIZE :]]
    self._num_buffered = len(self._buffer[0])


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
  """The array_record writer raises RuntimeError when a disk is full."""
  try:
    yield
  except RuntimeError as error:
    raise OSError(f"the tokens cannot be written: {error}") from None
