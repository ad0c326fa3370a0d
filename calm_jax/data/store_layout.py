"""Names and info file of a prepared directory."""

from __future__ import annotations

import json
from typing import Any

from etils import epath

FORMAT_VERSION = 1
INFO_FILE = "info.json"
TOKENIZER_DIRECTORY = "tokenizer"
TOKENS_DIRECTORY = "tokens"
SPLITS = ("train", "valid")
PART_NAME = "part-{index:05d}-of-{count:05d}"


def read_info(path: epath.Path) -> dict[str, Any]:
  """Reads and checks the info file of a finished store directory."""
  try:
    info = json.loads((path / INFO_FILE).read_text())
    version = info["format_version"]
  except (ValueError, KeyError, TypeError):
    raise ValueError(
      f"{path / INFO_FILE} is damaged; copy it again or prepare the data again."
    ) from None
  if version != FORMAT_VERSION:
    raise ValueError(
      f"{path} was prepared in format {version}; this version reads format"
      f" {FORMAT_VERSION}. Prepare the data again."
    )
  return info
