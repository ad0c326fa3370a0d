"""English that every Python brings along: its topics and docstrings.

About 2 MB, so that a machine without a network trains on real text. Sources
are parsed, never imported.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import pathlib
import sysconfig
import warnings
from collections.abc import Iterator

from calm_jax.data.source_files import Part, make_part

_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
_TOPICS = pathlib.Path("pydoc_data", "topics.py")
_MIN_LENGTH = 200  # characters; shorter documents are hardly text


@functools.cache  # it is read twice, for the tokenizer and for the tokens
def read_parts() -> tuple[Part, ...]:
  """One document for each topic and for each module with docstrings."""
  return tuple(_read_parts())


def _read_parts() -> Iterator[Part]:
  root = pathlib.Path(sysconfig.get_paths()["stdlib"])
  for path in _find_modules(root):
    name = path.relative_to(root)
    tree = _parse(path)
    texts = (
      []
      if tree is None
      else _topics(tree)
      if name == _TOPICS
      else ["\n\n".join(_docstrings(tree))]
    )
    for text in texts:
      if len(text) >= _MIN_LENGTH:
        yield make_part(text, str(path))


def _find_modules(root: pathlib.Path) -> list[pathlib.Path]:
  found = []
  for directory, subdirectories, files in os.walk(root):
    subdirectories[:] = set(subdirectories) - _LEFT_OUT
    found += [
      pathlib.Path(directory, file) for file in files if file.endswith(".py")
    ]
  return sorted(found)


def _parse(path: pathlib.Path) -> ast.Module | None:
  """None for the few files that are templates or for another version."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # odd escapes in old modules
    try:
      return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
      return None


def _topics(tree: ast.Module) -> list[str]:
  for node in tree.body:
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
      topics = ast.literal_eval(node.value)
      return [topics[key].strip("\n") for key in sorted(topics)]
  return []


def _docstrings(tree: ast.Module) -> Iterator[str]:
  """The docstrings in the order of the file, without their indentation."""
  nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  found = [node for node in ast.walk(tree) if isinstance(node, nodes)]
  found.sort(key=lambda node: getattr(node, "lineno", 0))
  for node in found:
    text = ast.get_docstring(node, clean=False)
    if text and text.strip():
      yield inspect.cleandoc(text)
