"""Documents from text files, TFDS data sets and Python's own documentation."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from etils import epath

from calm_jax import paths
from calm_jax.data import source_files, source_python_docs, source_tfds
from calm_jax.data.source_files import Part, kind_of

__all__ = ["PYTHON_DOCS", "Part", "list_inputs", "read_parts"]

PYTHON_DOCS = "python_docs"
TFDS_PREFIX = "tfds:"


def list_inputs(patterns: str) -> list[str]:
  """Finds what a comma-separated list of inputs names.

  Args:
    patterns: paths or globs of files that `epath` opens, `tfds:NAME` or
      `tfds:NAME@SPLIT` for a TFDS data set, `python_docs` for the
      documentation that comes with Python.

  Returns:
    Names for `read_parts`, each once; the files of a glob are sorted.

  Raises:
    OSError: if a path does not exist or a glob matches nothing.
    ValueError: if nothing is named, or a file is of an unknown kind.
  """
  names: list[str] = []
  for pattern in filter(None, map(str.strip, patterns.split(","))):
    names.extend(_find_files(pattern) if is_file(pattern) else [pattern])
  if not names:
    raise ValueError(
      "no input was given; name files or globs, separated by commas, such as"
      f" --input='data/*.jsonl', or {PYTHON_DOCS} or tfds:NAME."
    )
  return list(dict.fromkeys(names))


def read_parts(names: Sequence[str]) -> Iterator[Part]:
  """Reads the documents of all inputs, one after another.

  Args:
    names: from `list_inputs`.

  Yields:
    Parts of documents in order; nearly every document is a single part.

  Raises:
    OSError: if a file cannot be read.
    ValueError: if its content is not what its name says; the message tells
      the file and the line.
  """
  return itertools.chain.from_iterable(map(_read, names))


def estimate_size(names: Sequence[str]) -> tuple[int, bool]:
  """Estimates the text in the inputs without reading them.

  Args:
    names: from `list_inputs`.

  Returns:
    Bytes, and whether they are close: compressed files are taken for a third
    of their text, and what is no file for nothing.
  """
  total, is_close = 0, True
  for name, size in file_sizes(names).items():
    kind = kind_of(name)
    is_plain = not kind.compression and kind.content != "parquet"
    total += size * (1 if is_plain else 3)
    is_close &= is_plain
  return total, is_close and total > 0


def file_sizes(names: Sequence[str]) -> dict[str, int]:
  """Bytes on disk of those inputs that are files."""
  return {
    name: epath.Path(name).stat().length for name in filter(is_file, names)
  }


def is_file(name: str) -> bool:
  """Whether an input is neither a TFDS data set nor Python's documentation."""
  return name != PYTHON_DOCS and not name.startswith(TFDS_PREFIX)


def _read(name: str) -> Iterable[Part]:
  if name == PYTHON_DOCS:
    return source_python_docs.read_parts()
  if name.startswith(TFDS_PREFIX):
    return source_tfds.read_parts(name.removeprefix(TFDS_PREFIX))
  return source_files.read_parts(epath.Path(name))


def _find_files(pattern: str) -> list[str]:
  path = paths.expanded(pattern)
  if path.is_dir():
    raise ValueError(
      f"{pattern} is a directory; name its files, such as"
      f" {pattern.rstrip('/')}/*.jsonl."
    )
  found = [path] if path.exists() else _glob(path)
  if not found:
    raise FileNotFoundError(
      f"no file matches {pattern!r}; check the path, and put a glob in quotes."
    )
  for file in found:
    kind_of(str(file))
  return [str(file) for file in found]


def _glob(pattern: epath.Path) -> list[epath.Path]:
  parts = pattern.parts
  is_magic = [any(sign in part for sign in "*?[") for part in parts]
  if not any(is_magic):
    return []
  first = is_magic.index(True)
  root = epath.Path(*parts[:first]) if first else epath.Path()
  return sorted(
    path for path in root.glob("/".join(parts[first:])) if not path.is_dir()
  )
