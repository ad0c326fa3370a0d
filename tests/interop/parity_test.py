"""The recorded outputs of the authors' code, from converted weights.

All models of the package are held to them here: autoencoder, backbone, heads,
losses, token baseline.
"""

import json
import pathlib

import numpy as np
import pytest

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.interop.conversion import convert
from calm_jax.interop.export import export
from calm_jax.interop.recorded import read_recording
from calm_jax.interop.verification import verify
from calm_jax.interop.weights import Weights

_PARITY = pathlib.Path(__file__).parents[3] / "shared" / "parity"
_INPUTS = {
  "input_ids",
  "ae_decode_latents",
  "ae_train_token_keep",
  "ae_train_eps",
  "ae_train_latent_keep",
  "energy_noise",
  "energy_eps",
  "brier_pred_1",
  "brier_pred_2",
  "diffusion_net_x",
  "diffusion_net_t",
  "diffusion_noise",
  "flow_net_x",
  "flow_net_t",
}
_KINDS = {
  "ae": ("ae_", "brier_"),
  "calm_energy": ("energy_", "ae_", "brier_"),
  "calm_diffusion": ("diffusion_", "ae_", "brier_"),
  "calm_flow": ("flow_", "ae_", "brier_"),
  "ar": ("ar_",),
}

pytestmark = pytest.mark.skipif(
  not _PARITY.exists(), reason="no recorded outputs beside the checkout"
)


@pytest.mark.extras
@pytest.mark.parametrize("kind", _KINDS)
def test_every_recorded_array_and_the_way_back(kind, tmp_path):
  if not (_PARITY / kind / "model.safetensors").exists():
    pytest.importorskip("torch")
  convert(_PARITY / kind, tmp_path / "run")
  verification = verify(
    load_run(tmp_path / "run"), read_recording(_PARITY / "io.npz")
  )
  verification.check()
  with np.load(_PARITY / "io.npz") as recorded:
    outputs = set(recorded.files) - _INPUTS
  expected = {name for name in outputs if name.startswith(_KINDS[kind])}
  assert {each.name for each in verification.comparisons} == expected
  assert set(verification.skipped) == outputs - expected
  # Correct float32 code stays well below the tolerance.
  assert max(each.error for each in verification.comparisons) < 3e-6

  export(tmp_path / "run", tmp_path / "back")
  there, back = Weights(_PARITY / kind), Weights(tmp_path / "back")
  assert set(back.names) == set(there.names)
  for name in there.names:
    assert back.dtype(name) == there.dtype(name)
    assert back.read(name).tobytes() == there.read(name).tobytes(), name
  values = [
    json.loads((path / "config.json").read_text())
    for path in (_PARITY / kind, tmp_path / "back")
  ]
  assert values[0] == values[1]
