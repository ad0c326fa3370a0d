"""The memory that a conversion takes, at the size of CALM-L."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from calm_jax.interop.safetensors_file import write_safetensors
from tests.interop import checkpoints

_ROOT = pathlib.Path(__file__).parents[2]
_PROGRAM = """
import pathlib, sys
import jax
from calm_jax.interop.conversion import convert
from calm_jax.interop.export import export

def peak():
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.split("VmHWM:")[1].split()[0]) * 1024

jax.devices()
before = peak()
work = {"convert": convert, "export": export}[sys.argv[1]]
work(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_checkpoint_takes_one_stacked_tensor(tmp_path):
  sizes = {"vocab_size": 128256, "patch_size": 4, "latent_size": 128}
  values = checkpoints.make_config(
    "energy",
    **sizes,
    hidden_size=1536,
    intermediate_size=4096,
    num_hidden_layers=16,
    num_attention_heads=16,
    num_key_value_heads=16,
    num_mlp_layers=4,
    noise_size=64,
  )
  del values["ae_path"]
  inner = checkpoints.make_config(
    "ae", **sizes, hidden_size=512, intermediate_size=1280
  )
  shapes = checkpoints.make_shapes("energy", values)
  shapes |= checkpoints.with_prefix(
    checkpoints.make_shapes("ae", inner), "ae_model."
  )
  source = tmp_path / "published"
  source.mkdir()
  (source / "config.json").write_text(json.dumps(values))
  noise = np.random.default_rng(0).normal(size=2**20).astype(np.float32)
  write_safetensors(
    source / "model.safetensors",
    {name: ("F32", shape) for name, shape in shapes.items()},
    ((name, np.resize(noise, shape)) for name, shape in shapes.items()),
  )
  stacked = 16 * 1536 * 4096 * 4
  for work, start, end in (
    ("convert", source, tmp_path / "run"),
    ("export", tmp_path / "run", tmp_path / "back"),
  ):
    result = subprocess.run(
      [sys.executable, "-c", _PROGRAM, work, str(start), str(end)],
      cwd=_ROOT,
      env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)},
      capture_output=True,
      text=True,
      check=True,
    )
    assert int(result.stdout.split()[-1]) < stacked + 2**30, work
