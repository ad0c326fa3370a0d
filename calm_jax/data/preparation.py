"""Turns text into a prepared directory, all of it or nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tqdm
from absl import logging
from etils import epath

from calm_jax import json_files, paths
from calm_jax.data import (
  sources,
  store_layout,
  store_writer,
  tokenizer_base,
  tokenizer_sentencepiece,
)
from calm_jax.data.held_out import SplitInputs
from calm_jax.data.sources import Part
from calm_jax.data.tokenizer_base import Tokenizer
from calm_jax.version import __version__

_TRAINING_TEXT = 64 << 20  # bytes a tokenizer is trained on at most
_GROUP_SIZE = 1 << 20  # bytes that are encoded at once, on all cores
_NUM_CHECKED = 100  # texts that are decoded again


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
  if vocab_size is not None and not 0 < vocab_size < 2**31:
    raise ValueError(
      f"--vocab_size={vocab_size} is no number of pieces; give some hundreds or"
      " thousands."
    )
  if paths.is_remote(output):
    raise ValueError(
      f"output {output} is remote; prepare on a local or mounted disk and copy"
      " the finished directory."
    )
  inputs = SplitInputs(train_input, valid_input, shard)
  recipe = {
    "train_input": inputs.train,
    "valid_input": inputs.valid,
    "input_sizes": sources.file_sizes([*inputs.train, *(inputs.valid or [])]),
    "tokenizer": tokenizer.content_hash if tokenizer else None,
    "vocab_size": vocab_size,
    "shard": list(shard),
  }
  target = _target(paths.expanded(output), shard)
  if (info := _finished(target, recipe)) is not None:
    return {**info, "is_new": False}
  with _written_whole(target) as directory:
    if tokenizer is None:
      tokenizer = _train_tokenizer(inputs, vocab_size, show_progress)
    tokenizer.save(directory / store_layout.TOKENIZER_DIRECTORY)
    has_prompts = inputs.has_prompts()
    splits = _write_tokens(
      directory / store_layout.TOKENS_DIRECTORY,
      tokenizer,
      inputs,
      has_prompts,
      show_progress,
    )
    info = {
      "format_version": store_layout.PROMPTS_VERSION
      if has_prompts
      else store_layout.FORMAT_VERSION,
      "calm_jax_version": __version__,
      "recipe": recipe,
      "tokenizer_hash": tokenizer.content_hash,
      "content_hash": tokenizer_base.hash_parts(
        tokenizer.content_hash.encode(),
        *(splits[name]["sha256"].encode() for name in store_layout.SPLITS),
      ),
      "held_out": inputs.held_out,
      "block_size": store_writer.BLOCK_SIZE,
      "splits": splits,
    }
    json_files.write_json(directory / store_layout.INFO_FILE, info)
  return {**info, "is_new": True}


def describe(output: epath.PathLike, info: dict[str, Any]) -> str:
  """A table of what `prepare` returned."""
  lines = [
    f"{output}: "
    + (
      "prepared"
      if info["is_new"]
      else "was prepared already, from inputs of the same names and sizes"
    ),
    f"{'split':<8}{'documents':>12}{'tokens':>16}{'bytes':>16}"
    f"{'bytes/token':>14}",
  ]
  for name, counts in info["splits"].items():
    ratio = counts["num_bytes"] / max(counts["num_tokens"], 1)
    lines.append(
      f"{name:<8}{counts['num_documents']:>12,}{counts['num_tokens']:>16,}"
      f"{counts['num_bytes']:>16,}{ratio:>14.3f}"
    )
  if info["held_out"]:
    lines.append(f"valid is {info['held_out']}; --valid_input names other text")
  lines.append(f"tokenizer {info['tokenizer_hash'][:12]}")
  lines.append(f"content   {info['content_hash'][:12]}")
  return "\n".join(lines)


def _train_tokenizer(
  inputs: SplitInputs, vocab_size: int, show_progress: bool
) -> Tokenizer:
  with tqdm.tqdm(
    desc=f"training a tokenizer of {vocab_size} pieces",
    unit="B",
    unit_scale=True,
    disable=not show_progress,
  ) as bar:
    problems: list[ValueError | OSError] = []

    def counted() -> Iterator[str]:
      try:
        for text in inputs.sample(_TRAINING_TEXT):
          yield text
          bar.update(len(text))
      except (ValueError, OSError) as error:
        problems.append(error)
        raise

    try:
      return tokenizer_sentencepiece.train(counted(), vocab_size)
    except ValueError:
      # SentencePiece tells every error of reading as one of its own.
      for problem in problems:
        raise problem from None
      raise


def _write_tokens(
  directory: epath.Path,
  tokenizer: Tokenizer,
  inputs: SplitInputs,
  has_prompts: bool,
  show_progress: bool,
) -> dict[str, dict[str, Any]]:
  writer = store_writer.StreamWriter(
    directory,
    tokenizer.vocabulary,
    store_layout.SPLITS,
    has_prompts=has_prompts,
  )
  num_checked = num_inexact = 0
  num_bytes = dict.fromkeys(store_layout.SPLITS, 0)
  size, is_close = sources.estimate_size([*inputs.train, *(inputs.valid or [])])
  with tqdm.tqdm(
    desc="writing tokens",
    total=size if is_close else None,
    unit="B",
    unit_scale=True,
    disable=not show_progress,
  ) as bar:
    for group in _groups(inputs.read()):
      encoded = tokenizer.encode_all(
        [part.text for _, _, part in group],
        [is_first for _, is_first, _ in group],
      )
      for (split, is_first, part), tokens in zip(group, encoded, strict=True):
        if num_checked < _NUM_CHECKED:
          num_checked += 1
          num_inexact += tokenizer.decode(tokens, is_first) != part.text
        if part.is_prompt and not has_prompts:
          raise ValueError(
            "prompts with completions follow documents without; prepare the two"
            " apart and mix them in data.sources, or give the prompts first."
          )
        writer.add(
          split,
          tokens,
          is_first=is_first,
          is_last=part.is_last,
          is_prompt=part.is_prompt,
        )
        num_bytes[split] += part.num_bytes
        bar.update(part.num_bytes)
  splits = writer.close()
  for name in store_layout.SPLITS:
    splits[name]["num_bytes"] = num_bytes[name]
  _check_counts(splits, inputs)
  if num_inexact:
    logging.warning(
      "this tokenizer does not give back every text exactly: %d of the first"
      " %d texts differ",
      num_inexact,
      num_checked,
    )
  return splits


def _groups(
  items: Iterator[tuple[str, bool, Part]],
) -> Iterator[list[tuple[str, bool, Part]]]:
  """Cuts the documents into lists that are encoded together."""
  group, size = [], 0
  for item in items:
    group.append(item)
    size += item[2].num_bytes
    if size >= _GROUP_SIZE:
      yield group
      group, size = [], 0
  if group:
    yield group


def _check_counts(
  splits: dict[str, dict[str, Any]], inputs: SplitInputs
) -> None:
  train, valid = splits["train"], splits["valid"]
  if not train["num_bytes"]:
    raise ValueError(
      "every document was held out for validation; give more text, or name"
      " --valid_input."
      if inputs.valid is None and valid["num_bytes"]
      else f"the input has no text, in {train['num_documents']} documents; give"
      " files with text."
    )
  # Of several parts one may go without.
  if not valid["num_bytes"] and inputs.is_whole:
    raise ValueError(
      f"none of {train['num_documents']} documents was held out for validation;"
      " name --valid_input."
      if inputs.valid is None
      else "the validation input has no text; give files with text."
    )


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
  """A directory that takes the target's place when all went well."""
  with contextlib.ExitStack() as stack:
    try:
      directory = stack.enter_context(paths.directory_written_whole(target))
    except OSError as error:
      raise OSError(
        f"output {target} cannot be written ({error.strerror or error}); give"
        " another --output."
      ) from error
    yield directory
