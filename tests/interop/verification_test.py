"""Verification must be able to fail."""

import numpy as np
import pytest

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.interop.conversion import convert
from calm_jax.interop.recorded import read_recording
from calm_jax.interop.verification import Comparison, Verification, verify
from tests.interop import checkpoints


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  path = tmp_path_factory.mktemp("converted") / "run"
  convert(checkpoints.FIXTURES / "ae", path)
  return load_run(path)


def _recorded():
  with np.load(checkpoints.FIXTURES / "io.npz") as file:
    return {
      name: file[name]
      for name in file.files
      if name.startswith("ae_") or name == "input_ids"
    }


def _verify(run, path, arrays):
  np.savez(path / "io.npz", **arrays)
  return verify(run, read_recording(path / "io.npz"))


_OUTPUTS = [
  "ae_mean",
  "ae_log_std",
  "ae_logits",
  "ae_kl_clamped",
  "ae_decode_tokens",
  "ae_train_ce",
  "ae_train_kl",
  "ae_train_loss",
]


def test_each_altered_array_is_named(run, tmp_path):
  for name in _OUTPUTS:
    arrays = _recorded()
    if arrays[name].dtype.kind == "i":
      arrays[name].flat[-1] += 1
    else:
      largest = np.abs(arrays[name]).argmax()
      arrays[name].reshape(-1)[largest] *= 1.001
    verification = _verify(run, tmp_path, arrays)
    wrong = [
      each.name for each in verification.comparisons if not each.is_equal
    ]
    assert wrong == [name]
    with pytest.raises(ValueError, match=f"1 of 8 .* {name};"):
      verification.check()
    assert f"{name} " in verification.table()
    assert verification.table().count("FAILED") == 1


@pytest.mark.parametrize(
  "name",
  [
    "encoder.embed_tokens.weight",
    "encoder.encoder_layers.1.mlp.gate_proj.weight",
    "encoder.norm.weight",
    "encoder.squeeze_layer.bias",
    "decoder.decoder_layers.0.layernorm.weight",
    "decoder.expand_layer.weight",
  ],
)
def test_a_scaled_weight_fails(name, tmp_path):
  values = checkpoints.make_config("ae")
  weights = checkpoints.make_weights("ae", values, 0)
  weights[name] = weights[name] * np.float32(1.01)
  checkpoints.write(tmp_path / "ae", values, weights)
  convert(tmp_path / "ae", tmp_path / "run")
  verification = verify(
    load_run(tmp_path / "run"), read_recording(checkpoints.FIXTURES / "io.npz")
  )
  with pytest.raises(ValueError, match="differ from the recording"):
    verification.check()


def test_an_undefined_number_is_a_difference(run, tmp_path):
  arrays = _recorded()
  arrays["ae_mean"][0, 0, 0] = np.nan
  with pytest.raises(ValueError, match="ae_mean;"):
    _verify(run, tmp_path, arrays).check()
  assert not Comparison("x", float("nan"), is_exact=False).is_equal
  assert not Comparison("x", float("nan"), is_exact=True).is_equal


def test_nothing_compared_is_a_failure(run, tmp_path):
  arrays = {"input_ids": _recorded()["input_ids"], "ar_loss": np.float32(1)}
  verification = _verify(run, tmp_path, arrays)
  assert verification.skipped == ["ar_loss"]
  with pytest.raises(ValueError, match="nothing was compared"):
    verification.check()
  assert Verification([], []).table() == ""


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("ae_mean", lambda x: x[:, :-1], "ae_mean has shape"),
    ("input_ids", lambda x: x[:, :-1], "rows have 9 tokens"),
    ("input_ids", lambda x: x + 30, "ids from 0 to 36"),
    ("input_ids", lambda x: x[0], "no input_ids"),
    ("input_ids", lambda x: x[:0], r"input_ids of shape \[0, "),
    ("ae_decode_tokens", lambda x: x[:0], "holds nothing to compare"),
    ("ae_train_eps", lambda x: x[..., None], "ae_train_eps has shape"),
  ],
)
def test_a_recording_of_another_model_is_named(
  run, tmp_path, name, change, message
):
  arrays = _recorded()
  arrays[name] = change(arrays[name])
  with pytest.raises(ValueError, match=message):
    _verify(run, tmp_path, arrays)


def test_a_damaged_recording_is_named(tmp_path):
  (tmp_path / "io.npz").write_bytes(b"PK\x03\x04 and nothing more")
  with pytest.raises(ValueError, match="is no readable"):
    read_recording(tmp_path / "io.npz")
  np.save(tmp_path / "io.npy", np.zeros(3))
  with pytest.raises(ValueError, match=r"is no readable .* one array without"):
    read_recording(tmp_path / "io.npy")
