"""The README names only binaries, flags, files and experiments that exist."""

import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_TEXT = (_ROOT / "README.md").read_text()
_BLOCKS = re.findall(r"```bash\n(.*?)```", _TEXT, re.DOTALL)
_COMMANDS = [
  command
  for block in _BLOCKS
  for command in re.split(r"\n|&&", block.replace("\\\n", " "))
  if "python -m launch." in command
]


def test_commands_are_found():
  assert len(_COMMANDS) >= 8


@pytest.mark.parametrize("command", _COMMANDS)
def test_binary_and_flags_exist(command):
  name = re.search(r"python -m launch\.(\w+)", command)[1]
  source = (_ROOT / "launch" / f"{name}.py").read_text()
  for flag in re.findall(r" --(?:no)?([a-z_]+)", command):
    assert f'"{flag}"' in source, f"launch.{name} has no --{flag}"
  for path in re.findall(r"--config=(\S+?\.py)", command):
    assert (_ROOT / path).exists()


def test_listed_files_exist():
  tree = re.search(r"## The files\n\n```\n(.*?)```", _TEXT, re.DOTALL)[1]
  folder = _ROOT
  for line in tree.splitlines():
    entry = line.split()[0]
    if not line.startswith(" "):
      folder = _ROOT / entry if entry == "calm_jax/" else _ROOT
      assert (_ROOT / entry).exists(), entry
    elif line.startswith("  ") and not line.startswith("   "):
      assert (folder / entry).exists(), entry
  binaries = re.search(r"absl binaries: ([\w\s]+?)\ntests", tree)[1].split()
  found = {
    path.stem
    for path in (_ROOT / "launch").glob("*.py")
    if "entry.run(main)" in path.read_text()
  }
  assert set(binaries) == found
