"""What needs an extra is marked, or CI would skip it without a word."""

import pathlib

import pytest


@pytest.mark.parametrize(
  ("package", "mark"),
  [
    ("torch", "extras"),
    ("tiktoken", "extras"),
    ("tokenizers", "extras"),
    ("libtpu", "aot"),
  ],
)
def test_what_needs_a_package_bears_its_mark(package, mark):
  found = [
    path.read_text()
    for path in pathlib.Path(__file__).parent.rglob("*_test.py")
    if f'importorskip("{package}"' in path.read_text()
  ]
  assert found and all(f"pytest.mark.{mark}" in text for text in found)
