"""launch.convert as users run it."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.interop import checkpoints

_ROOT = pathlib.Path(__file__).parents[2]


def run_convert(**flags):
  words = [f"--{name}={value}" for name, value in flags.items()]
  result = subprocess.run(
    [sys.executable, "-m", "launch.convert", *words],
    cwd=_ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  errors = [
    line for line in result.stderr.splitlines() if line.startswith("error: ")
  ]
  assert "Traceback" not in result.stderr
  assert len(errors) == (result.returncode != 0)
  return result, errors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp("binary") / "run"
  result, _ = run_convert(
    source=checkpoints.FIXTURES / "ae",
    target=path,
    verify=checkpoints.FIXTURES / "io.npz",
  )
  assert result.returncode == 0, result.stderr
  for name in ("ae_mean", "ae_decode_tokens", "ae_train_loss"):
    assert f"\n{name} " in f"\n{result.stdout}"
  assert "skipped: " in result.stdout and "FAILED" not in result.stdout
  return path


def test_a_tilde_is_the_home_directory(run, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(run.parent))
  name = f"~/{tmp_path.name}"
  result, _ = run_convert(source="~/run", target=name, reverse=True)
  assert result.returncode == 0, result.stderr
  assert (run.parent / tmp_path.name / "config.json").exists()


def test_there_and_back(run, tmp_path):
  result, _ = run_convert(source=run, target=tmp_path / "back", reverse=True)
  assert result.returncode == 0, result.stderr
  there, back = (
    (path / "model.safetensors").stat().st_size
    for path in (checkpoints.FIXTURES / "ae", tmp_path / "back")
  )
  # The embedding is written under its second name too.
  assert 37 * 18 * 4 <= back - there < 37 * 18 * 4 + 200


def test_a_difference_ends_in_one_line_and_1(tmp_path):
  with np.load(checkpoints.FIXTURES / "io.npz") as file:
    arrays = {name: file[name] for name in file.files}
  arrays["ae_mean"] = arrays["ae_mean"] * np.float32(1.0001)
  np.savez(tmp_path / "io.npz", **arrays)
  result, errors = run_convert(
    source=checkpoints.FIXTURES / "ae",
    target=tmp_path / "run",
    verify=tmp_path / "io.npz",
  )
  assert result.returncode == 1
  assert "1 of 8 arrays differ" in errors[0] and "ae_mean" in errors[0]
  assert result.stdout.count("FAILED") == 1


def test_mistakes_end_in_one_line_and_1(run, tmp_path):
  fixture = checkpoints.FIXTURES / "ae"
  for flags, message in (
    ({"source": fixture, "target": run}, "is not an empty directory"),
    ({"source": tmp_path, "target": tmp_path / "run"}, "has no config.json"),
    (
      {
        "source": run,
        "target": tmp_path / "run",
        "reverse": True,
        "verify": "io.npz",
      },
      "--verify does not go with --reverse",
    ),
    (
      {"source": fixture, "target": tmp_path / "run", "verify": "none.npz"},
      "none.npz",
    ),
    ({"source": fixture, "target": "gs://b/run"}, "--target=gs://b/run is in"),
  ):
    result, errors = run_convert(**flags)
    assert result.returncode == 1
    assert message in errors[0]
    assert list(tmp_path.iterdir()) == []
