"""Turns text into a prepared directory, all of it or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import tqdm
from etils import epath

from calm_jax.data import (
  sources,
  store_layout,
  store_writer,
  tokenizer_base,
  tokenizer_sentencepiece,
)
from calm_jax.data.sources import Part
from calm_jax.data.tokenizer_base import Tokenizer
from calm_jax.version import __version__

# Share of the documents that is held out where no validation input is given.
_VALID_SHARE = {True: 0.05, False: 0.01}  # of python_docs, of anything else
_TRAINING_TEXT = 64 << 20  # bytes a tokenizer is trained on at most


def prepare(
  output: epath.PathLike,
  *,
  train_input: str = sources.PYTHON_DOCS,
  valid_input: str | None = None,
  tokenizer: Tokenizer | None = None,
  vocab_size: int | None = None,
  shard: tuple[int, int] = (0, 1),
  show_progress: bool = True,
) -> dict[str, Any]:
  """Writes a prepared directory that `TokenStore` reads.

  Args:
    output: the directory; it must not exist, be empty, or hold the finished
      result of the same call, which is then left as it is.
    train_input: see `sources.list_inputs`.
    valid_input: the same for validation; None: hold out a small share of the
      documents of `train_input`, chosen by their hash.
    tokenizer: to use; None: train SentencePiece on the training documents.
    vocab_size: V of the tokenizer that is trained.
    shard: (i, n): prepare the i-th of n parts, from 0; each takes every n-th
      file. All parts go into the same `output`.
    show_progress: print a progress bar to stderr.

  Returns:
    The info file: counts per split, hashes, `is_new` False if it was there.

  Raises:
    OSError: if a file cannot be read or written.
    ValueError: if the input is empty or damaged, or `output` holds something
      else.
  """
  if (tokenizer is None) == (vocab_size is None):
    raise ValueError(
      "a tokenizer or a vocabulary size is needed, and not both; give one of"
      " --vocab_size=N, --tokenizer=FILE and --bytes."
    )
  if "://" in str(output):
    raise ValueError(
      f"output {output} is remote; prepare on a local or mounted disk and copy"
      " the finished directory."
    )
  inputs = _Inputs(train_input, valid_input, shard)
  recipe = {
    "train_input": inputs.train,
    "valid_input": inputs.valid,
    "tokenizer": tokenizer.content_hash if tokenizer else None,
    "vocab_size": vocab_size,
    "shard": list(shard),
  }
  target = _target(epath.Path(output), shard)
  if (info := _finished(target, recipe)) is not None:
    return {**info, "is_new": False}
  with _written_whole(target) as directory:
    if tokenizer is None:
      tokenizer = _train_tokenizer(inputs, vocab_size, show_progress)
    tokenizer.save(directory / store_layout.TOKENIZER_DIRECTORY)
    splits = _write_tokens(
      directory / store_layout.TOKENS_DIRECTORY,
      tokenizer,
      inputs,
      show_progress,
    )
    info = {
      "format_version": store_layout.FORMAT_VERSION,
      "calm_jax_version": __version__,
      "recipe": recipe,
      "tokenizer_hash": tokenizer.content_hash,
      "content_hash": tokenizer_base.hash_parts(
        tokenizer.content_hash.encode(),
        *(splits[name]["sha256"].encode() for name in store_layout.SPLITS),
      ),
      "block_size": store_writer.BLOCK_SIZE,
      "splits": splits,
    }
    (directory / store_layout.INFO_FILE).write_text(
      json.dumps(info, indent=2) + "\n"
    )
  return {**info, "is_new": True}


def describe(output: epath.PathLike, info: dict[str, Any]) -> str:
  """A table of what `prepare` returned."""
  lines = [
    f"{output}: {'prepared' if info['is_new'] else 'was prepared already'}",
    f"{'split':<8}{'documents':>12}{'tokens':>16}{'bytes':>16}"
    f"{'bytes/token':>14}",
  ]
  for name, counts in info["splits"].items():
    ratio = counts["num_bytes"] / max(counts["num_tokens"], 1)
    lines.append(
      f"{name:<8}{counts['num_documents']:>12,}{counts['num_tokens']:>16,}"
      f"{counts['num_bytes']:>16,}{ratio:>14.3f}"
    )
  if info["recipe"]["valid_input"] is None:
    lines.append(
      "valid: documents of the input, held out by their hash; choose your own"
      " with --valid_input"
    )
  lines.append(f"tokenizer {info['tokenizer_hash'][:12]}")
  lines.append(f"content   {info['content_hash'][:12]}")
  return "\n".join(lines)


class _Inputs:
  """The files of this part, and which split a document belongs to."""

  def __init__(
    self, train_input: str, valid_input: str | None, shard: tuple[int, int]
  ):
    index, count = shard
    if not 0 <= index < count:
      raise ValueError(
        f"shard {index}/{count} is impossible; give i/n with i from 0 to n − 1."
      )
    self.all_train = sources.list_inputs(train_input)
    all_valid = sources.list_inputs(valid_input) if valid_input else []
    if both := set(self.all_train) & set(all_valid):
      raise ValueError(
        f"{min(both)} is both training and validation input; a model would be"
        " judged by what it was trained on."
      )
    if len(self.all_train) < count:
      raise ValueError(
        f"the input has {len(self.all_train)} files, fewer than the {count}"
        " shards; give more files or fewer shards."
      )
    self.train = self.all_train[index::count]
    self.valid = all_valid[index::count] if valid_input else None
    self._is_whole = count == 1
    self._valid_share = _VALID_SHARE[self.all_train == [sources.PYTHON_DOCS]]

  def read(self) -> Iterator[tuple[str, bool, Part]]:
    """Yields (split, whether a document starts, part) for all of this part."""
    yield from self._read_train(self.train)
    if self.valid is not None:
      for is_first, part in _with_starts(self.valid):
        yield "valid", is_first, part

  def read_for_tokenizer(self) -> Iterator[str]:
    """An even sample of the training documents of *all* parts.

    Every machine reads the same sample, so every part gets the same tokenizer.
    """
    size = sources.size_in_bytes(self.all_train) or 0
    stride = -(-size // _TRAINING_TEXT) or 1
    left = _TRAINING_TEXT
    for number, (split, _, part) in enumerate(self._read_train(self.all_train)):
      if split == "train" and number % stride == 0:
        yield part.text
        left -= part.num_bytes
      if left <= 0:
        return

  def check_counts(self, splits: dict[str, dict[str, Any]]) -> None:
    """Raises ValueError for a split without text."""
    if not splits["train"]["num_bytes"]:
      raise ValueError(
        f"the input has {splits['train']['num_documents']} documents for"
        " training and no text in them; give files with text."
      )
    if self._is_whole and not splits["valid"]["num_bytes"]:
      raise ValueError(
        f"of {splits['train']['num_documents']} documents none was held out for"
        " validation; give --valid_input."
      )

  def _read_train(
    self, names: Sequence[str]
  ) -> Iterator[tuple[str, bool, Part]]:
    split = "train"
    for is_first, part in _with_starts(names):
      if is_first and self.valid is None:
        # Of a document in several parts, the first one decides.
        digest = hashlib.sha256(part.text.encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        split = "valid" if share < self._valid_share else "train"
      yield split, is_first, part


def _with_starts(names: Sequence[str]) -> Iterator[tuple[bool, Part]]:
  is_first = True
  for part in sources.read_parts(names):
    yield is_first, part
    is_first = part.is_last


def _train_tokenizer(
  inputs: _Inputs, vocab_size: int, show_progress: bool
) -> Tokenizer:
  with tqdm.tqdm(
    desc=f"training a tokenizer of {vocab_size} pieces",
    unit="B",
    unit_scale=True,
    disable=not show_progress,
  ) as bar:

    def counted() -> Iterator[str]:
      for text in inputs.read_for_tokenizer():
        yield text
        bar.update(len(text))

    return tokenizer_sentencepiece.train(counted(), vocab_size)


def _write_tokens(
  directory: epath.Path,
  tokenizer: Tokenizer,
  inputs: _Inputs,
  show_progress: bool,
) -> dict[str, dict[str, Any]]:
  writer = store_writer.StreamWriter(
    directory, tokenizer.vocabulary, store_layout.SPLITS
  )
  num_bytes = dict.fromkeys(store_layout.SPLITS, 0)
  with tqdm.tqdm(
    desc="writing tokens",
    total=sources.size_in_bytes([*inputs.train, *(inputs.valid or [])]),
    unit="B",
    unit_scale=True,
    disable=not show_progress,
  ) as bar:
    for split, is_first, part in inputs.read():
      writer.add(
        split,
        tokenizer.encode(part.text),
        is_first=is_first,
        is_last=part.is_last,
      )
      num_bytes[split] += part.num_bytes
      bar.update(part.num_bytes)
  splits = writer.close()
  for name in store_layout.SPLITS:
    splits[name]["num_bytes"] = num_bytes[name]
  inputs.check_counts(splits)
  return splits


def _target(output: epath.Path, shard: tuple[int, int]) -> epath.Path:
  """Where this part goes."""
  index, count = shard
  if output.exists() and not output.is_dir():
    raise ValueError(f"output {output} is a file; give a directory.")
  if count == 1:
    return output
  for path in output.iterdir() if output.exists() else []:
    if not path.name.startswith((".", "part-")):
      raise ValueError(
        f"output {output} holds {path.name}, which is no part of prepared"
        " data; give an empty directory."
      )
  return output / store_layout.PART_NAME.format(index=index, count=count)


def _finished(
  target: epath.Path, recipe: dict[str, Any]
) -> dict[str, Any] | None:
  """The info of the same preparation; None if there is nothing yet."""
  if not target.exists() or not any(target.iterdir()):
    return None
  if not (target / store_layout.INFO_FILE).exists():
    raise ValueError(
      f"output {target} is not empty and holds no prepared data; give a new"
      " directory."
    )
  info = store_layout.read_info(target)
  for name, value in recipe.items():
    if info["recipe"].get(name) != value:
      raise ValueError(
        f"output {target} holds data prepared with another {name}"
        f" ({str(info['recipe'].get(name))[:200]}, now {str(value)[:200]});"
        " give a new directory."
      )
  return info


@contextlib.contextmanager
def _written_whole(target: epath.Path) -> Iterator[epath.Path]:
  """A directory beside the target that takes its place when all went well."""
  target.parent.mkdir(parents=True, exist_ok=True)
  directory = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
  directory.mkdir()
  try:
    yield directory
    if target.exists():
      target.rmdir()
    directory.rename(target)
  finally:
    if directory.exists():
      directory.rmtree()
