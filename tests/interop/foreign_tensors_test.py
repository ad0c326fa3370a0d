"""Tensors that are no parameters, dtypes that are not read, larger tables."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.data.tokenizer import ByteTokenizer, load_tokenizer
from calm_jax.interop.conversion import convert
from calm_jax.interop.export import export
from calm_jax.interop.recorded import read_recording
from calm_jax.interop.verification import verify
from tests.interop import checkpoints
from tests.interop.convert_binary_test import run_convert


@pytest.fixture
def source(tmp_path):
  shutil.copytree(checkpoints.FIXTURES / "ar", tmp_path / "ar")
  return tmp_path / "ar"


def _add(source, **tensors):
  path = source / "model.safetensors"
  weights = load_file(path)
  weights |= {name.replace("__", "."): x for name, x in tensors.items()}
  save_file(weights, path)


def _frequencies(theta=10000.0, size=4, dtype=np.float32):
  half = size // 2
  return (theta ** (-np.arange(half) / half)).astype(dtype)


_IN_LAYER = "model__layers__0__self_attn__rotary_emb__inv_freq"
# What a library has saved beside the parameters, and saying nothing new.
_IGNORED = {
  "frequencies of a layer": {_IN_LAYER: _frequencies()},
  "frequencies in bfloat16": {
    _IN_LAYER: _frequencies(dtype=ml_dtypes.bfloat16)
  },
  "frequencies in float16": {_IN_LAYER: _frequencies(dtype=np.float16)},
  "frequencies of the model": {"model__rotary_emb__inv_freq": _frequencies()},
  "positions": {"model__position_ids": np.arange(64)[None]},
  "positions of 32 bits": {"position_ids": np.arange(64, dtype=np.int32)},
}
_REFUSED = {
  "frequencies of another theta": (
    {_IN_LAYER: _frequencies(500000.0)},
    "holds the frequencies of rope_theta 500000, and config.json has"
    " rope_theta 10000 and heads of 4",
  ),
  "frequencies of another width": (
    {_IN_LAYER: _frequencies(size=8)},
    "holds 4 frequencies, and config.json",
  ),
  "frequencies that are scaled": (
    {_IN_LAYER: _frequencies() / 2},
    "and config.json has rope_theta 10000",
  ),
  "frequencies of 64 bits": (
    {_IN_LAYER: _frequencies(dtype=np.float64)},
    "belongs to no part of the model",
  ),
  "positions out of order": (
    {"model__position_ids": np.arange(64)[None, ::-1].copy()},
    "holds other numbers than 0, 1, 2",
  ),
  "8-bit numbers": (
    {"model__extra": np.zeros(3, ml_dtypes.float8_e4m3fn)},
    "tensor model.extra (3,) in",
  ),
  "weights of 64 bits": (
    {"model__norm__weight": np.ones(24)},
    "model.norm.weight in {source} has dtype F64, which cannot be read; F32,"
    " F16, BF16 can",
  ),
  "weights of 8 bits": (
    {"model__norm__weight": np.ones(24, ml_dtypes.float8_e4m3fn)},
    "has dtype F8_E4M3, which cannot be read",
  ),
  "weights that are integers": (
    {"model__norm__weight": np.ones(24, np.int8)},
    "has dtype I8, which cannot be read",
  ),
}


@pytest.mark.parametrize("case", _IGNORED)
def test_a_buffer_that_agrees_is_left_out(case, source, tmp_path):
  before = load_file(source / "model.safetensors")
  _add(source, **_IGNORED[case])
  convert(source, tmp_path / "run")
  export(tmp_path / "run", tmp_path / "back")
  back = load_file(tmp_path / "back" / "model.safetensors")
  assert back.keys() == before.keys()
  for name, array in before.items():
    assert back[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("case", _REFUSED)
def test_what_is_not_read_is_called_by_its_name(case, source, tmp_path):
  tensors, message = _REFUSED[case]
  _add(source, **tensors)
  with pytest.raises(ValueError) as caught:
    convert(source, tmp_path / "run")
  assert message.format(source=source) in str(caught.value)
  assert "damaged" not in str(caught.value)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.extras
def test_buffers_of_torch_files_too(source, tmp_path):
  torch = pytest.importorskip("torch")
  path = source / "model.safetensors"
  tensors = {
    name: torch.from_numpy(array.astype(np.float32)).bfloat16()
    for name, array in load_file(path).items()
  }
  tensors["model.position_ids"] = torch.arange(64)
  tensors[_IN_LAYER.replace("__", ".")] = torch.from_numpy(_frequencies())
  torch.save(tensors, source / "pytorch_model.bin")
  path.unlink()
  convert(source, tmp_path / "run")
  verify(
    load_run(tmp_path / "run"), read_recording(checkpoints.FIXTURES / "io.npz")
  ).check()
  tensors["model.norm.weight"] = torch.ones(24).double()
  torch.save(tensors, source / "pytorch_model.bin")
  with pytest.raises(ValueError, match=r"dtype torch\.float64, which cannot"):
    convert(source, tmp_path / "other")


def _larger_table(directory, size):
  values = checkpoints.make_config("ar", vocab_size=size)
  values |= {"bos_token_id": 256, "eos_token_id": 257}
  checkpoints.write(directory, values, checkpoints.make_weights("ar", values))


def test_a_table_may_be_longer_than_the_tokenizer(tmp_path):
  ByteTokenizer().save(tmp_path / "tokenizer")
  _larger_table(tmp_path / "ar", 320)
  result, _ = run_convert(
    source=tmp_path / "ar",
    target=tmp_path / "run",
    tokenizer=tmp_path / "tokenizer",
  )
  assert result.returncode == 0, result.stderr
  tokenizer = load_run(tmp_path / "run").tokenizer
  assert tokenizer.vocabulary.size == 320
  assert tokenizer.vocabulary.unscored_ids == (256, *range(258, 320))
  assert (
    tokenizer.encode("aé").tolist() == ByteTokenizer().encode("aé").tolist()
  )
  assert tokenizer.decode([97, 300, 319]) == "a"
  with pytest.raises(ValueError, match="token id 320 is not one"):
    tokenizer.decode([320])
  # Data that is prepared with it suits the model.
  again = load_tokenizer(tmp_path / "run" / "tokenizer")
  assert again.content_hash == tokenizer.content_hash
  assert again.content_hash != ByteTokenizer().content_hash


def test_a_tokenizer_that_is_larger_than_the_model_is_refused(tmp_path):
  ByteTokenizer().save(tmp_path / "tokenizer")
  _larger_table(tmp_path / "ar", 258)
  convert(tmp_path / "ar", tmp_path / "run", tokenizer=tmp_path / "tokenizer")
  values = checkpoints.make_config("ar", vocab_size=200)
  values |= {"bos_token_id": 1, "eos_token_id": 2}
  checkpoints.write(
    tmp_path / "small", values, checkpoints.make_weights("ar", values)
  )
  with pytest.raises(ValueError, match="has size 258, and the checkpoint 200"):
    convert(
      tmp_path / "small", tmp_path / "other", tokenizer=tmp_path / "tokenizer"
    )


@pytest.mark.parametrize("size", [3, 259, 10**15, "32", True])
def test_a_damaged_size_is_named(size, tmp_path):
  tokenizer = ByteTokenizer()
  tokenizer.pad(320)
  tokenizer.save(tmp_path)
  path = tmp_path / "tokenizer_info.json"
  path.write_text(
    json.dumps(json.loads(path.read_text()) | {"padded_size": size})
  )
  with pytest.raises(ValueError, match="is not the one that was saved"):
    load_tokenizer(tmp_path)
