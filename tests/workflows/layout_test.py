"""Training and planning choose the same mesh and microbatches."""

import json
import math
import os
import pathlib
import subprocess
import sys

import pytest

from calm_jax import config
from calm_jax.checkpoint.run_directory import RunDirectory
from calm_jax.workflows.training import run_training
from experiments import calm, token
from tests.data.prepared import prepare

_ROOT = pathlib.Path(__file__).parents[2]
_GIB = 2**30
_H200, _V5E, _V5P, _V6E = (
  int(it * _GIB) for it in (131.5, 15.75, 95.74, 31.25)
)
_TABLE = [
  ("calm.py:tiny", 1, _H200),
  ("calm.py:tiny", 8, _H200),
  ("calm.py:s", 8, _H200),
  ("calm.py:m", 1, _H200),
  ("calm.py:m", 8, _H200),
  ("calm.py:l", 256, _V5E),
  ("calm.py:l", 64, _V5P),
  ("calm.py:xl", 256, _V6E),
  ("calm.py:xl", 512, _V5E),
  ("autoencoder.py:k4", 1, _H200),
  ("autoencoder.py:k4", 512, _V5E),
  ("token.py:l", 256, _V5E),
]


@pytest.fixture(scope="module")
def found():
  """For each line of the table what training and what planning chooses."""
  finished = subprocess.run(
    [sys.executable, "-m", "tests.workflows.layouts"],
    cwd=_ROOT,
    env={key: it for key, it in os.environ.items() if key != "XLA_FLAGS"},
    input="\n".join(map(json.dumps, _TABLE)),
    capture_output=True,
    text=True,
    check=False,
  )
  assert finished.returncode == 0, finished.stderr
  return [json.loads(line) for line in finished.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(_TABLE)), ids=lambda i: str(_TABLE[i]))
def test_a_run_has_the_layout_of_its_plan(found, i):
  argument, num_devices, memory = _TABLE[i]
  trained, planned = found[i]
  assert trained == planned
  assert math.prod(trained["mesh"].values()) == num_devices
  assert 0 < trained["state"] < memory
  if num_devices == 512:
    rest = trained["mesh"]["tensor"] * trained["mesh"]["sequence"]
    assert rest == 2  # more chips than rows
  if (argument, num_devices) == ("calm.py:m", 1):
    assert trained["num_microbatches"] > 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  documents = [f"Line {i}: {i * i} is the square of {i}." for i in range(400)]
  path = tmp_path_factory.mktemp("data")
  return prepare(path, documents[40:], documents[:40]).path


def _small(experiment, data):
  """A paper's config, its model and rows made small."""
  experiment.model.num_layers, experiment.model.num_heads = 1, 2
  experiment.model.hidden_size, experiment.model.ffn_size = 16, 32
  experiment.model.dtype = "float32"
  experiment.data.path = str(data)
  experiment.data.row_length, experiment.data.batch_size = 32, 8
  experiment.num_steps, experiment.optimizer.num_warmup_steps = 2, 1
  experiment.num_eval_rows, experiment.num_scored_rows = 8, 0
  return experiment


def test_a_papers_config_runs_on_the_devices_there_are(data, tmp_path, capsys):
  experiment = _small(token.get_config("m"), data)
  result = run_training(experiment, tmp_path)
  assert (result.step, result.reason) == (2, "finished")
  (line,) = [
    line
    for line in capsys.readouterr().err.splitlines()
    if line.startswith("devices ")
  ]
  assert line == (
    "devices 8, mesh data 8 × fsdp 1 × tensor 1 × sequence 1, microbatches 1"
    " of 8 rows"
  )
  saved = RunDirectory(tmp_path).read_config()
  assert saved.mesh == config.MeshConfig()
  assert saved.num_microbatches == config.CHOSEN


def test_what_is_given_is_kept(data, tmp_path, capsys):
  experiment = _small(token.get_config("m"), data)
  experiment.mesh.fsdp, experiment.num_microbatches = 2, 2
  assert run_training(experiment, tmp_path).step == 2
  # Four rows at once leave a device in two to the heads.
  assert (
    "mesh data 2 × fsdp 2 × tensor 2 × sequence 1, microbatches 2 of 4 rows"
  ) in capsys.readouterr().err
  saved = RunDirectory(tmp_path).read_config()
  assert (saved.mesh.fsdp, saved.mesh.data) == (2, config.CHOSEN)
  assert saved.num_microbatches == 2


def test_papers_configs_leave_the_layout_open():
  for experiment in (calm, token):
    found = experiment.get_config("l")
    assert found.mesh == config.MeshConfig()
    assert found.num_microbatches == config.CHOSEN
