"""What was asked for as --output is there, whatever becomes of stdout."""

import json
import os
import subprocess
import sys

import pytest

from calm_jax.json_files import read_rows
from tests.integration import runs

_GENERATE = [
  "generate",
  "--checkpoint=calm",
  "--prompts_file=prompts.txt",
  "--num_tokens=4",
  "--num_candidates=4",
  "--output=result.json",
]
_EVALUATE = [
  "evaluate",
  "--checkpoint=autoencoder",
  "--data=data",
  "--num_rows=4",
]


def _start(workspace, directory, command, *, stdout, **environment):
  """As users start it: how Python opens stdout is decided at its start."""
  workspace.copy(directory, "calm", "autoencoder", "data")
  (directory / "prompts.txt").write_text("é漢\n", "utf-8")
  name, *arguments = command
  return subprocess.run(
    [sys.executable, "-m", f"launch.{name}", *arguments],
    cwd=directory,
    env=runs.environment() | environment,
    stdout=stdout,
    stderr=subprocess.PIPE,
    check=False,
  )


@pytest.mark.parametrize(
  "environment",
  [
    {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
  ],
  ids=["stdout", "locale"],
)
def test_ascii_loses_nothing(workspace, tmp_path, environment):
  finished = _start(
    workspace, tmp_path, _GENERATE, stdout=subprocess.PIPE, **environment
  )
  assert finished.returncode == 0, finished.stderr
  result = json.loads((tmp_path / "result.json").read_text("utf-8"))
  (found,) = result["continuations"]
  assert found["prompt"] == "é漢"
  shown = (found["prompt"] + found["text"]).encode("ascii", "backslashreplace")
  assert shown.startswith(b"\\xe9\\u6f22")
  assert finished.stdout == shown + b"\n"


@pytest.mark.parametrize("command", [_GENERATE, _EVALUATE], ids=lambda c: c[0])
@pytest.mark.parametrize("where", ["closed pipe", "full disk", "nothing"])
def test_the_file_is_written_before_anything_is_printed(
  workspace, tmp_path, command, where
):
  command = [*command, "--output=result.json"]
  if where == "closed pipe":
    start, stdout = os.pipe()
    os.close(start)
  else:
    name = "/dev/full" if where == "full disk" else os.devnull
    stdout = os.open(name, os.O_WRONLY)
  finished = _start(workspace, tmp_path, command, stdout=stdout)
  os.close(stdout)
  said = finished.stderr.decode()
  assert "Traceback" not in said
  assert finished.returncode == (1 if where == "full disk" else 0), said
  if where == "full disk":
    assert "No space left on device" in runs.terminal_lines(said)[-1]
  assert "versions" in json.loads((tmp_path / "result.json").read_text())


def test_a_row_is_written_before_it_is_printed(workspace, tmp_path):
  command = [*_EVALUATE, "--steps=3,6", "--output=rows.jsonl"]
  start, stdout = os.pipe()
  os.close(start)
  finished = _start(workspace, tmp_path, command, stdout=stdout)
  os.close(stdout)
  assert "Traceback" not in finished.stderr.decode()
  assert read_rows(tmp_path / "rows.jsonl")[0]["step"] == 3


def test_prompts_of_a_file_end_where_its_lines_do(
  workspace, tmp_path, binaries
):
  workspace.copy(tmp_path, "calm")
  prompts = ["a\x85b\x0cc\u2028d", "e"]
  text = "\ufeff" + "\r\n".join(prompts) + "\n"
  (tmp_path / "a.txt").write_bytes(text.encode())
  finished = binaries(*_GENERATE, "--prompts_file=a.txt", directory=tmp_path)
  assert finished.code == 0, finished.stderr
  result = json.loads((tmp_path / "result.json").read_text())
  assert [it["prompt"] for it in result["continuations"]] == prompts
