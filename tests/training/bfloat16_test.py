"""Training in bfloat16 follows float32 within what a seed changes."""

import dataclasses

import numpy as np
import pytest

from calm_jax import config as config_lib
from calm_jax.data import preparation
from calm_jax.data.tokenizer import ByteTokenizer
from calm_jax.json_files import read_rows
from calm_jax.workflows.training import run_training

_NUM_STEPS = 500
_SEEDS = (0, 1, 2)


def _autoencoder(dtype, seed, data, num_steps=_NUM_STEPS):
  return config_lib.ExperimentConfig(
    model=config_lib.AutoencoderConfig(
      hidden_size=64, ffn_size=160, init_std=0.125, dtype=dtype
    ),
    data=config_lib.DataConfig(path=data, row_length=128, batch_size=8),
    optimizer=config_lib.OptimizerConfig(
      learning_rate=3e-3, num_warmup_steps=50
    ),
    num_steps=num_steps,
    save_interval=num_steps,
    eval_interval=0,
    log_interval=100,
    seed=seed,
  )


def _calm(dtype, seed, data, autoencoder):
  return dataclasses.replace(
    _autoencoder(dtype, seed, data),
    autoencoder_run=autoencoder,
    model=config_lib.NextVectorConfig(
      hidden_size=64,
      ffn_size=160,
      num_layers=2,
      num_heads=4,
      init_std=0.125,
      head=config_lib.EnergyHeadConfig(num_mlp_layers=1, num_targets=20),
      dtype=dtype,
    ),
    data=config_lib.DataConfig(path=data, row_length=128, batch_size=8),
  )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  path = tmp_path_factory.mktemp("bfloat16") / "data"
  preparation.prepare(path, tokenizer=ByteTokenizer())
  return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["autoencoder", "next_vector"])
def test_bfloat16_tracks_float32(stage, data, tmp_path):
  """Loss curves of three seeds each, means over 100 steps.

  Rounding is a change of the run as a seed is: at every point of the curve the
  mean difference is at most three standard errors of it, as the spread of the
  float32 runs gives them.
  """
  config_fn = _autoencoder
  if stage == "next_vector":
    first = tmp_path / "first"
    run_training(_autoencoder("float32", 9, data), first)
    config_fn = lambda *arguments: _calm(*arguments, str(first))
  curves = {}
  for dtype in ("float32", "bfloat16"):
    curves[dtype] = []
    for seed in _SEEDS:
      workdir = tmp_path / f"{dtype}-{seed}"
      run_training(config_fn(dtype, seed, data), workdir)
      rows = read_rows(workdir / "metrics.jsonl")
      curves[dtype].append([row["loss"] for row in rows])
  float32, bfloat16 = (np.array(curves[it]) for it in ("float32", "bfloat16"))
  assert float32.shape == (3, _NUM_STEPS // 100)
  assert np.all(float32[:, -1] < 0.95 * float32[:, 0])  # it does learn
  difference = np.abs(bfloat16.mean(axis=0) - float32.mean(axis=0))
  stderr = float32.std(axis=0, ddof=1) * np.sqrt(2 / len(_SEEDS))
  print(np.stack([float32.mean(axis=0), difference, stderr]).round(4))
  assert np.all(difference <= 3 * stderr)
