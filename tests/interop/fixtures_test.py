"""Our own small checkpoints against the NumPy model's recorded outputs.

They cover what the authors' recordings do not: grouped-query heads, K = 2, odd
sizes, shards, bfloat16, tensors stored once, the autoencoder inside only.
"""

import numpy as np
import pytest

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.interop.conversion import convert
from calm_jax.interop.recorded import read_recording
from calm_jax.interop.verification import verify
from tests.interop import checkpoints


@pytest.fixture(scope="module", params=checkpoints.ARCHITECTURES)
def run(request, tmp_path_factory):
  path = tmp_path_factory.mktemp("converted") / request.param
  convert(checkpoints.FIXTURES / request.param, path)
  return request.param, load_run(path)


def test_recorded_outputs_are_recomputed(run):
  kind, loaded = run
  verification = verify(loaded, read_recording(checkpoints.FIXTURES / "io.npz"))
  verification.check()
  compared = {each.name.split("_")[0] for each in verification.comparisons}
  assert compared == ({kind} if kind in ("ae", "ar") else {kind, "ae"})
  assert max(each.error for each in verification.comparisons) < 5e-6


def test_recordings_are_those_of_the_numpy_model():
  """A stale file would hide a change of the NumPy model."""
  models = {}
  for seed, kind in enumerate(checkpoints.ARCHITECTURES):
    values = checkpoints.make_config(kind)
    dtype = "bfloat16" if kind in ("energy", "ar") else "float32"
    weights = checkpoints.make_weights(kind, values, seed)
    models[kind] = values, checkpoints.round_to(weights, dtype)
  with np.load(checkpoints.FIXTURES / "io.npz") as recorded:
    again = checkpoints.record(models)
    assert set(again) == set(recorded.files)
    for name in recorded.files:
      np.testing.assert_allclose(
        again[name], recorded[name], rtol=1e-5, atol=1e-6, err_msg=name
      )


def test_fixtures_stay_small():
  files = [p for p in checkpoints.FIXTURES.rglob("*") if p.is_file()]
  assert sum(path.stat().st_size for path in files) < 2**20
