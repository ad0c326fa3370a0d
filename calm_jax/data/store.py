"""A prepared directory: one flat stream of token ids per split.

The stream is begin + document + end for every document, with nothing dropped.
It lies in an array_record data set of fixed-size blocks, so that any row
length T and chunk size K can be cut from it: row i is tokens[i·T : (i+1)·T].

A directory is either one store,

    info.json  tokenizer/  tokens/

or holds the parts that several machines prepared, `part-00000-of-00004/` and
so on, each of them a store; the streams of the parts follow one another.
"""

from __future__ import annotations

import bisect
import itertools

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from calm_jax import paths
from calm_jax.config import VocabularyConfig
from calm_jax.data import store_layout, tokenizer_base
from calm_jax.data import tokenizer as tokenizer_lib
from calm_jax.data.preparation import describe, prepare
from calm_jax.data.tfds_examples import DamagedFileError, Examples

__all__ = ["TokenStore", "describe", "prepare"]


class TokenStore:
  """Reads a prepared directory.

  Attributes:
    path: the directory.
    tokenizer: that of all parts.
    content_hash: sha256 of tokenizer and tokens.
    splits: "train" and "valid".
  """

  def __init__(self, path: epath.PathLike):
    """Opens the store.

    Args:
      path: a directory written by `launch.prepare`.

    Raises:
      OSError: if there is no such directory.
      ValueError: if it is not a finished preparation of this format.
    """
    self.path = paths.expanded(path)
    self._parts = [_Part(part) for part in _find_parts(self.path)]
    first = self._parts[0]
    for part in self._parts[1:]:
      if part.info["tokenizer_hash"] != first.info["tokenizer_hash"]:
        raise ValueError(
          f"{part.path} was prepared with another tokenizer than {first.path};"
          " prepare all parts from the same input, or give --tokenizer."
        )
    self.tokenizer = tokenizer_lib.load_tokenizer(
      first.path / store_layout.TOKENIZER_DIRECTORY
    )
    if self.tokenizer.content_hash != first.info["tokenizer_hash"]:
      raise ValueError(
        f"{first.path} is damaged: its tokenizer is not the one that the data"
        " was prepared with; copy it again or prepare the data again."
      )
    hashes = [part.info["content_hash"] for part in self._parts]
    self.content_hash = (
      hashes[0]
      if len(hashes) == 1
      else tokenizer_base.hash_parts(*(text.encode() for text in hashes))
    )
    self.splits = store_layout.SPLITS
    self._ends = {
      split: list(
        itertools.accumulate(part.counts(split)[0] for part in self._parts)
      )
      for split in store_layout.SPLITS
    }

  @property
  def vocabulary(self) -> VocabularyConfig:
    """The ids that stand in the store."""
    return self.tokenizer.vocabulary

  def num_tokens(self, split: str) -> int:
    """Ids in the split's stream, begin and end ids included."""
    return self._ends[self._check_split(split)][-1]

  def num_documents(self, split: str) -> int:
    """Documents in the split."""
    self._check_split(split)
    return sum(part.counts(split)[1] for part in self._parts)

  def num_bytes(self, split: str) -> int:
    """Bytes of UTF-8 text in the split."""
    self._check_split(split)
    return sum(part.counts(split)[2] for part in self._parts)

  def num_rows(self, split: str, row_length: int) -> int:
    """Rows of T tokens in the split; the last one may be shorter."""
    return -(-self.num_tokens(split) // row_length)

  def read(self, split: str, start: int, stop: int) -> np.ndarray:
    """Reads tokens[start:stop] of the split's stream.

    Args:
      split: "train" or "valid".
      start: first position, from 0.
      stop: one past the last position, at most `num_tokens(split)`.

    Returns:
      [stop − start] int32.

    Raises:
      ValueError: if the stream has no such positions.
    """
    return self.read_marked(split, start, stop)[0]

  def read_marked(
    self, split: str, start: int, stop: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Reads tokens, and which of them are of prompts: [n] int32, [n] bool."""
    if not 0 <= start <= stop <= self.num_tokens(split):
      raise ValueError(
        f"tokens {start} to {stop} of {split!r} were asked of {self.path},"
        f" which has {self.num_tokens(split)}."
      )
    tokens = np.empty(stop - start, np.int32)
    ends = self._ends[split]
    position = start
    while position < stop:
      index = bisect.bisect_right(ends, position)
      part_start = ends[index - 1] if index else 0
      part_stop = min(stop, ends[index])
      self._parts[index].read(
        split,
        position - part_start,
        tokens[position - start : part_stop - start],
      )
      position = part_stop
    is_prompt = tokens < 0
    return np.where(is_prompt, store_layout.mark(tokens), tokens), is_prompt

  def _check_split(self, split: str) -> str:
    if split not in store_layout.SPLITS:
      raise ValueError(
        f"split {split!r} is not known; a prepared directory has"
        f" {' and '.join(store_layout.SPLITS)}."
      )
    return split


class _Part:
  """One finished store directory."""

  def __init__(self, path: epath.Path):
    self.path = path
    self.info = store_layout.read_info(path)
    self._block_size = self.info["block_size"]
    self._sources = self._open()

  def counts(self, split: str) -> tuple[int, int, int]:
    """Tokens, documents and bytes of the split."""
    info = self.info["splits"][split]
    return info["num_tokens"], info["num_documents"], info["num_bytes"]

  def read(self, split: str, start: int, out: np.ndarray) -> None:
    """Fills `out` with the tokens from `start` on."""
    filled = 0
    while filled < len(out):
      number, offset = divmod(start + filled, self._block_size)
      block = self._read_block(split, number)
      tokens = block[offset : offset + len(out) - filled]
      out[filled : filled + len(tokens)] = tokens
      filled += len(tokens)

  def _read_block(self, split: str, number: int) -> np.ndarray:
    try:
      return self._sources[split].read(number, "tokens")
    except DamagedFileError as error:
      raise self._damaged(str(error)) from None

  def _open(self) -> dict[str, Examples]:
    directory = self.path / store_layout.TOKENS_DIRECTORY
    sources = {}
    try:
      builder = tfds.builder_from_directory(directory)
      for split in store_layout.SPLITS:
        if self.counts(split)[0]:  # a split without examples does not open
          sources[split] = Examples(builder, split)
    except Exception as error:  # TFDS raises whatever its parsers raise
      raise self._damaged(str(error)) from None
    for split, source in sources.items():
      num_blocks = -(-self.counts(split)[0] // self._block_size)
      if len(source) != num_blocks:
        raise self._damaged(
          f"{split!r} has {len(source)} blocks and should have {num_blocks}"
        )
    return sources

  def _damaged(self, reason: str) -> ValueError:
    return ValueError(
      f"the tokens in {self.path / store_layout.TOKENS_DIRECTORY} are damaged"
      f" or incomplete ({' '.join(reason.split())}); copy them again or prepare"
      " the data again."
    )


def _find_parts(path: epath.Path) -> list[epath.Path]:
  if not path.exists():
    raise FileNotFoundError(
      f"there is no prepared data at {path}; write it with"
      " `python -m launch.prepare --output=DIR`."
    )
  if (path / store_layout.INFO_FILE).exists():
    return [path]
  found = sorted(path.glob(store_layout.PARTS))
  if not found:
    raise ValueError(
      f"{path} holds no prepared data ({store_layout.INFO_FILE} is missing);"
      " write it with `python -m launch.prepare --output=DIR`."
    )
  counts = {int(part.name.rsplit("-", 1)[1]) for part in found}
  if len(counts) > 1:
    raise ValueError(
      f"{path} holds parts of several preparations, of"
      f" {' and '.join(map(str, sorted(counts)))} parts; keep one of them."
    )
  (count,) = counts
  wanted = [
    path / store_layout.PART_NAME.format(index=index, count=count)
    for index in range(count)
  ]
  missing = [part.name for part in wanted if part not in found]
  if missing:
    raise ValueError(
      f"{path} lacks {len(missing)} of its {count} parts, {missing[0]} first;"
      f" prepare it with --shard={int(missing[0].split('-')[1])}/{count}."
    )
  return wanted
