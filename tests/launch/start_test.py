"""How binaries start: at once where no work is asked for."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest

from calm_jax import config_file
from experiments import calm

_ROOT = pathlib.Path(__file__).parents[2]
_BINARIES = sorted(
  path.stem
  for path in (_ROOT / "launch").glob("*.py")
  if "entry.run(main)" in path.read_text()
)
_MAX_SECONDS = 3.0


def _call(*arguments):
  """The finished process, and the CPU time that it took, in seconds."""
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  finished = subprocess.run(
    [sys.executable, "-m", *arguments],
    cwd=_ROOT,
    env=os.environ | {"COLUMNS": "80"},
    capture_output=True,
    text=True,
    check=False,
  )
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
  return finished, seconds


@pytest.mark.parametrize("name", _BINARIES)
def test_help_is_quick_and_quiet(name):
  """CPU time, because another process may have the core."""
  finished, seconds = _call(f"launch.{name}", "--help")
  assert (finished.returncode, finished.stderr) == (0, "")
  assert f"python -m launch.{name}" in finished.stdout
  assert seconds < _MAX_SECONDS


def test_the_config_is_printed_with_its_flags():
  finished, _ = _call(
    "launch.train",
    "--config=experiments/calm.py:tiny,head=flow",
    "--config.model.num_layers=7",
    "--print_config",
  )
  assert (finished.returncode, finished.stderr) == (0, "")
  expected = config_file.to_dict(calm.get_config("tiny,head=flow"))
  expected["model"]["num_layers"] = 7
  assert json.loads(finished.stdout) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "--workdir is missing"),
    (["--config.model.head=flow", "--workdir=x"], "is no flag; name its kind"),
    (["--config.model.vocabulary.size=5"], "comes from the data"),
    (["--config.data.sources=a", "--print_config"], "is no flag; write it in"),
  ],
)
def test_what_is_no_flag_is_said_in_one_line(flags, message):
  finished, _ = _call("launch.train", "--config=experiments/calm.py", *flags)
  assert finished.returncode == 1
  assert message in finished.stderr and finished.stderr.count("\n") == 1
