"""What --distributed says where it finds no other processes."""

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_SLURM = {
  "SLURM_JOB_ID": "1",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "0",
  "SLURM_LOCALID": "0",
}
_GIVE = "give --coordinator_address and --num_processes and --process_id"
_CASES = {
  "no address": (
    {"SLURM_STEP_NODELIST": None},
    ("finds SLURM_JOB_ID and not SLURM_STEP_NODELIST", "srun", _GIVE),
  ),
  "an empty address": (
    {"SLURM_STEP_NODELIST": ""},
    ("SLURM_STEP_NODELIST is ''; a host was expected",),
  ),
  "a number that is a word": (
    {"SLURM_NTASKS": "two"},
    ("SLURM_NTASKS is 'two'; a number was expected",),
  ),
  "no cluster": (dict.fromkeys(_SLURM), ("finds no cluster it knows", _GIVE)),
}


@pytest.mark.parametrize("case", _CASES)
def test_what_is_missing_is_named(case, tmp_path):
  changes, messages = _CASES[case]
  environment = {
    name: value
    for name, value in {**os.environ, **_SLURM, **changes}.items()
    if value is not None
  }
  result = subprocess.run(
    [
      sys.executable,
      "-m",
      "launch.train",
      "--distributed",
      f"--config={_ROOT / 'experiments' / 'autoencoder.py'}:tiny",
      f"--workdir={tmp_path / 'run'}",
    ],
    cwd=_ROOT,
    env={**environment, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)},
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert result.returncode == 1
  errors = [
    line for line in result.stderr.splitlines() if line.startswith("error: ")
  ]
  assert len(errors) == 1 and "Traceback" not in result.stderr
  for message in messages:
    assert message in errors[0]
