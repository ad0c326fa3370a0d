"""A package imports only what stands above it in the order of the data."""

import ast
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parent.parent / "calm_jax"
_ORDER = [
  "version",
  "config",
  "paths",
  "text_files",
  "json_files",
  "config_file",
  "randomness",
  "data",
  "kernels",
  "losses",
  "layers",
  "autoencoder",
  "model",
  "sampling",
  "evaluation",
  "families",
  "training",
  "checkpoint",
  "runs",
  "api",
]
_LEAVES = ["interop", "scaling", "planning", "workflows"]
# What runs from a checkout and does not ship, and what is far too large.
_OUTSIDE = ("benchmarks", "experiments", "launch", "tests", "tensorflow")
_FILES = sorted(_ROOT.rglob("*.py"))


def _imports(path: pathlib.Path) -> set[str]:
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


@pytest.mark.parametrize(
  "path", _FILES, ids=lambda path: str(path.relative_to(_ROOT))
)
def test_imports_flow_one_way(path):
  package = path.relative_to(_ROOT).parts[0].removesuffix(".py")
  if package == "__init__":
    return
  allowed = (
    {*_ORDER, package}
    if package in _LEAVES
    else {*_ORDER[: _ORDER.index(package) + 1]}
  )
  for name in _imports(path):
    parts = name.split(".")
    if parts[0] == "calm_jax" and len(parts) > 1:
      assert parts[1] in allowed, f"{package} must not import {name}"
    assert parts[0] not in _OUTSIDE
    if parts[0] == "flax" and name != "flax.struct":
      assert package in ("layers", "autoencoder", "model"), name


@pytest.mark.parametrize(
  "path", _FILES, ids=lambda path: str(path.relative_to(_ROOT))
)
def test_no_flags_and_no_environment(path):
  text = path.read_text()
  assert "absl import flags" not in text
  assert "os.environ" not in text and "getenv" not in text
