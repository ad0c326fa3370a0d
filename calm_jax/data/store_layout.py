"""Names, info file and marks of a prepared directory.

Of a document with a prompt, the prompt's ids are stored as −1 − id: one stream
holds both what is read and what is to be learnt. Such directories are of format
2; without prompts the format is 1, as it always was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

from calm_jax import json_files

FORMAT_VERSION = 1
PROMPTS_VERSION = 2  # some ids are marked
_VERSIONS = (FORMAT_VERSION, PROMPTS_VERSION)
INFO_FILE = "info.json"
TOKENIZER_DIRECTORY = "tokenizer"
TOKENS_DIRECTORY = "tokens"
SPLITS = ("train", "valid")
PART_NAME = "part-{index:05d}-of-{count:05d}"
PARTS = "part-?????-of-?????"


def is_prepared(path: epath.Path) -> bool:
  """Whether a directory holds prepared data, whole or in parts."""
  return (path / INFO_FILE).exists() or any(path.glob(PARTS))


def read_info(path: epath.Path) -> dict[str, Any]:
  """Reads and checks the info file of a finished store directory."""
  file = path / INFO_FILE
  hint = "copy it again or prepare the data again."
  try:
    info = json_files.read_json(file)
  except ValueError as error:
    raise ValueError(f"{error} You can {hint}") from None
  version = info.get("format_version")
  if version not in _VERSIONS and type(version) is int:
    raise ValueError(
      f"{path} was prepared in format {version}; this version reads formats"
      f" {' and '.join(map(str, _VERSIONS))}. Prepare the data again."
    )
  if wrong := [
    name for name, is_right in _FIELDS.items() if not is_right(info)
  ]:
    raise ValueError(
      f"{file} is damaged: {wrong[0]} is missing or not what it should be;"
      f" {hint}"
    )
  return info


def mark(ids: np.ndarray) -> np.ndarray:
  """Ids of prompts as they are stored, or the reverse: its own inverse."""
  return -1 - ids


def _is(kind: type, name: str) -> Callable[[dict[str, Any]], bool]:
  return lambda info: isinstance(info.get(name), kind)


def _has_counts(info: dict[str, Any]) -> bool:
  splits = info.get("splits")
  return isinstance(splits, dict) and all(
    isinstance(splits.get(split), dict)
    and all(
      type(splits[split].get(name)) is int and splits[split][name] >= 0
      for name in ("num_tokens", "num_documents", "num_bytes")
    )
    for split in SPLITS
  )


_FIELDS = {
  "format_version": lambda info: info.get("format_version") in _VERSIONS,
  "recipe": _is(dict, "recipe"),
  "tokenizer_hash": _is(str, "tokenizer_hash"),
  "content_hash": _is(str, "content_hash"),
  "held_out": _is(str, "held_out"),
  "block_size": lambda info: (
    type(info.get("block_size")) is int and info["block_size"] > 0
  ),
  "splits": _has_counts,
}
