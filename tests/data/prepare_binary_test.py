"""Tests launch/prepare.py as users start it."""

import json
import pathlib
import subprocess
import sys

import pytest

from calm_jax.data import store
from tests.data import prepared, texts

_ROOT = pathlib.Path(__file__).parents[2]


_MODULE = ("-m", "launch.prepare")
_ON_A_SMALL_DISK = (
  "-c",
  "import resource, runpy;"
  "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000));"
  "runpy.run_module('launch.prepare', run_name='__main__')",
)


def _prepare(tmp_path, *arguments, program=_MODULE):
  return subprocess.run(
    [sys.executable, *program, *arguments],
    cwd=tmp_path,
    env={"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin"},
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.fixture
def inputs(tmp_path):
  prepared.write_json_lines(tmp_path / "train.jsonl", [texts.ENGLISH, "b"])
  prepared.write_json_lines(tmp_path / "valid.jsonl", ["c"])
  return ["--input=train.jsonl", "--valid_input=valid.jsonl", "--output=out"]


def test_prepares_and_prints_a_table(tmp_path, inputs):
  result = _prepare(tmp_path, *inputs, "--vocab_size=320")
  assert result.returncode == 0, result.stderr
  lines = result.stdout.splitlines()
  assert lines[0] == "out: prepared"
  assert lines[1].split() == [
    "split",
    "documents",
    "tokens",
    "bytes",
    "bytes/token",
  ]
  opened = store.TokenStore(tmp_path / "out")
  size = opened.num_tokens("train")
  assert lines[2].split()[:3] == ["train", "2", str(size)]
  assert "writing tokens" in result.stderr and "Traceback" not in result.stderr
  again = _prepare(tmp_path, *inputs, "--vocab_size=320")
  assert again.stdout.splitlines()[0] == (
    "out: was prepared already, from inputs of the same names and sizes"
  )


def test_tokenizer_of_another_preparation(tmp_path, inputs):
  assert _prepare(tmp_path, *inputs, "--bytes").returncode == 0
  inputs[-1] = "--output=other"
  assert _prepare(tmp_path, *inputs, "--tokenizer=out").returncode == 0
  info = json.loads((tmp_path / "other" / "info.json").read_text())
  assert info["tokenizer_hash"] == prepared.BYTES.content_hash


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--bytes", "--input=none.txt"], "no file matches 'none.txt'"),
    (["--vocab_size=many"], "--vocab_size=many is not a whole number"),
    (["--bytez"], "bytez"),
    ([], "give one of --vocab_size=N, --tokenizer=FILE and --bytes"),
    (["--bytes", "--tokenizer=x"], "one of --bytes and --tokenizer"),
    (["--tokenizer=none.model"], "no tokenizer at none.model"),
    (["--bytes", "--shard=2"], "--shard=2 should be i/n"),
    (["--bytes", "--output="], "--output=DIR is missing"),
    (["--bytes", "--output=/proc/none"], "/proc"),
  ],
)
def test_mistakes_are_one_line(tmp_path, inputs, arguments, message):
  result = _prepare(tmp_path, *inputs, *arguments)
  assert result.returncode == 1
  assert result.stderr.startswith("error: ") and message in result.stderr
  assert len(result.stderr.splitlines()) == 1
  assert not (tmp_path / "out").exists()


def test_full_disk_leaves_nothing(tmp_path, inputs):
  prepared.write_json_lines(
    tmp_path / "train.jsonl", texts.random_texts(seed=13, count=20_000)
  )
  result = _prepare(tmp_path, *inputs, "--bytes", program=_ON_A_SMALL_DISK)
  assert result.returncode == 1
  assert "error: the tokens cannot be written" in result.stderr
  assert "Traceback" not in result.stderr
  left = {path.name for path in tmp_path.iterdir()}
  assert left == {"train.jsonl", "valid.jsonl"}
