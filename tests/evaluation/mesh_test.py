"""Scores are those of one device, however rows and parameters are split."""

import dataclasses

import numpy as np
import pytest

from calm_jax.config import MeshConfig, heads
from calm_jax.data.batch import Row, make_batch
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.families import family_of
from calm_jax.training import sharding
from tests.sampling.tiny_runs import (
  autoencoder_run,
  calm_run,
  on_mesh,
  token_run,
)

_LENGTH = 24
_MESHES = {
  "rows": MeshConfig(data=8),
  "parameters": MeshConfig(data=1, fsdp=8),
  "cube": MeshConfig(data=2, fsdp=2, tensor=2),
  "wide": MeshConfig(data=1, fsdp=4, tensor=2),
}
_RUNS = {
  "autoencoder": autoencoder_run,
  "token": lambda: token_run(num_chunks=_LENGTH),
  "k4": lambda: calm_run(num_chunks=_LENGTH),
  "k2": lambda: calm_run(chunk_size=2, num_chunks=_LENGTH),
}
_QUICK = {("autoencoder", "rows"), ("k4", "rows"), ("k2", "cube")}
_slow = pytest.mark.slow


def _batches(run):
  """Eleven rows in batches of six, some of them short."""
  generator = np.random.default_rng(0)
  rows = [
    Row(generator.integers(97, 101, n).astype(np.int32), 0, i)
    for i, n in enumerate([_LENGTH] * 5 + [17, 9] + [_LENGTH] * 4)
  ]
  return [
    make_batch(
      rows[first : first + 6],
      run.tokenizer.vocabulary,
      row_length=_LENGTH,
      chunk_size=run.config.model.chunk_size,
      batch_size=6,
    )
    for first in (0, 6)
  ]


def _scores(run, settings, mesh=None):
  if mesh is not None:
    run = on_mesh(run, mesh)
  family = family_of(run.config.model)
  scores_fn = family.make_scores_fn(run.config, settings, mesh)
  return scores_fn(run.params, run.autoencoder, _batches(run))


def _settings(name):
  settings = PredictionSettings(num_samples=3, permuted=True)
  return dataclasses.replace(settings, last_chunk=name == "k4")


def _assert_same(found, expected):
  """Means to a millionth, and what counts or speaks exactly."""
  assert {*found} == {*expected}
  for key, value in expected.items():
    if isinstance(value, float) or key == "std_per_dimension":
      # A difference is no more exact than what it is the difference of.
      whole = expected[key.split("_minus_")[0]]
      size = 0.0 if isinstance(whole, str) else np.max(np.abs(whole))
      scale = 1e-6 * max(1.0, float(size))
      np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=scale)
    else:
      assert found[key] == value, key


@pytest.mark.parametrize(
  ("name", "mesh"),
  [
    pytest.param(name, mesh, marks=() if (name, mesh) in _QUICK else _slow)
    for name in _RUNS
    for mesh in _MESHES
  ],
)
def test_scores_do_not_depend_on_the_mesh(name, mesh):
  run = _RUNS[name]()
  expected = _scores(run, _settings(name))
  found = _scores(run, _settings(name), sharding.make_mesh(_MESHES[mesh]))
  _assert_same(found, expected)


@_slow
@pytest.mark.parametrize("head", sorted(heads.HeadConfig.kinds))
def test_every_head_is_scored_on_rows_and_on_parameters(head):
  kind = heads.HeadConfig.kinds[head](num_mlp_layers=1)
  run = calm_run(num_chunks=_LENGTH, head=kind)
  settings = PredictionSettings(num_samples=2)
  expected = _scores(run, settings)
  for mesh in ("rows", "cube"):
    found = _scores(run, settings, sharding.make_mesh(_MESHES[mesh]))
    _assert_same(found, expected)
