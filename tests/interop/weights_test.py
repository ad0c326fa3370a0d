"""The files that hold weights, whole and damaged."""

import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from calm_jax.interop.safetensors_file import SafetensorsFile, write_safetensors
from calm_jax.interop.weights import Weights

_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def _arrays():
  rng = np.random.default_rng(0)
  return {
    name: rng.normal(size=(7, 3)).astype(dtype)
    for name, dtype in _DTYPES.items()
  } | {"scalar": np.array(2.5, "f4"), "empty": np.zeros((0, 4), "f4")}


def test_reads_what_the_library_writes(tmp_path):
  save_file(_arrays(), tmp_path / "x.safetensors", metadata={"format": "pt"})
  file = SafetensorsFile(tmp_path / "x.safetensors")
  assert set(file.names) == set(_arrays())
  for name, array in _arrays().items():
    assert file.shape(name) == array.shape
    assert file.read(name).tobytes() == array.tobytes()
  for name in _DTYPES:
    assert file.dtype(name) == name
    rows = file.read(name, slice(2, 5))
    assert rows.tobytes() == _arrays()[name][2:5].tobytes()


def test_the_library_reads_what_is_written(tmp_path):
  arrays = _arrays()
  entries = {
    name: (name if name in _DTYPES else "F32", array.shape)
    for name, array in arrays.items()
  }
  path = tmp_path / "x.safetensors"
  write_safetensors(path, entries, iter(arrays.items()))
  for name, array in load_file(path).items():
    assert array.dtype == arrays[name].dtype
    assert array.tobytes() == arrays[name].tobytes()


def _save(path):
  save_file(_arrays(), path / "model.safetensors")
  return path / "model.safetensors"


def _rewrite_header(path, change):
  data = path.read_bytes()
  length = int.from_bytes(data[:8], "little")
  header = json.loads(data[8 : 8 + length])
  change(header)
  encoded = json.dumps(header).encode()
  path.write_bytes(
    len(encoded).to_bytes(8, "little") + encoded + data[8 + length :]
  )


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda p: p.write_bytes(p.read_bytes()[:-1]), "truncated or altered"),
    (lambda p: p.write_bytes(p.read_bytes()[:20]), "no whole safetensors"),
    (lambda p: p.write_bytes(b""), "no whole safetensors"),
    (lambda p: p.write_bytes(b"\xff" * 64), "no whole safetensors"),
    (
      lambda p: p.write_bytes((40).to_bytes(8, "little") + b"{" * 40),
      "header cannot be read",
    ),
    (
      lambda p: _rewrite_header(p, lambda h: h["F32"].update(dtype="I64")),
      r"tensor F32 of shape \[7, 3\] takes 84 bytes",
    ),
    (
      lambda p: _rewrite_header(p, lambda h: h["F32"].update(dtype=64)),
      "tensor F32 has dtype 64",
    ),
    (
      lambda p: _rewrite_header(
        p, lambda h: h["F32"].update(data_offsets=h["F16"]["data_offsets"])
      ),
      "header cannot be read",
    ),
    (
      lambda p: _rewrite_header(
        p, lambda h: h["F32"].update(data_offsets=h["BF16"]["data_offsets"])
      ),
      "header cannot be read",
    ),
    (
      lambda p: _rewrite_header(p, lambda h: h.update(F32=[1])),
      "header cannot",
    ),
    (
      lambda p: _rewrite_header(p, lambda h: h["F32"].update(shape=[7, 4])),
      r"tensor F32 of shape \[7, 4\] takes 84 bytes",
    ),
    (
      lambda p: _rewrite_header(p, lambda h: h["F32"].update(shape=[-7, -3])),
      "tensor F32 has shape",
    ),
    (
      lambda p: _rewrite_header(p, lambda h: h["F32"].pop("data_offsets")),
      "header cannot be read",
    ),
  ],
)
def test_damaged_safetensors_are_named(tmp_path, damage, message):
  path = _save(tmp_path)
  damage(path)
  with pytest.raises(ValueError, match=message) as caught:
    Weights(tmp_path)
  assert str(path) in str(caught.value)


def test_numbers_that_are_none_are_named(tmp_path):
  save_file({"w": np.array([1, np.nan], "f4")}, tmp_path / "model.safetensors")
  with pytest.raises(ValueError, match=r"tensor w .* infinite or undefined"):
    Weights(tmp_path).read("w")


def _index(path, weight_map):
  text = json.dumps({"weight_map": weight_map})
  (path / "model.safetensors.index.json").write_text(text)


def test_shards_are_one_set_of_tensors(tmp_path):
  arrays = _arrays()
  for name in ("F32", "BF16"):
    save_file({name: arrays[name]}, tmp_path / f"{name}.safetensors")
  _index(tmp_path, {n: f"{n}.safetensors" for n in ("F32", "BF16")})
  weights = Weights(tmp_path)
  assert weights.names == ["F32", "BF16"]
  assert weights.dtype("BF16") == "BF16"
  np.testing.assert_array_equal(
    weights.read("BF16"), arrays["BF16"].astype(np.float32)
  )


@pytest.mark.parametrize(
  ("weight_map", "error", "message"),
  [
    ({"a": "gone.safetensors"}, OSError, "'gone.safetensors', which is not"),
    ({"a": "../x"}, OSError, "'../x', which is not beside it"),
    ({"a": 3}, OSError, "shard 3, which is not beside it"),
    ({"a": "model.safetensors"}, ValueError, "tensor a is in model.safet"),
    ("nothing", ValueError, "no readable weight_map"),
    ({"a": ["x"]}, ValueError, "no readable weight_map"),
  ],
)
def test_an_index_that_points_nowhere_is_named(
  tmp_path, weight_map, error, message
):
  _save(tmp_path)
  _index(tmp_path, weight_map)
  with pytest.raises(error, match=message):
    Weights(tmp_path)


def test_a_directory_without_weights_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="holds no weights"):
    Weights(tmp_path)


class _Evil:
  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return open, (str(self._path), "w")


@pytest.mark.extras
class TestTorch:
  @pytest.fixture(autouse=True)
  def torch(self):
    return pytest.importorskip("torch")

  def test_reads_every_dtype(self, torch, tmp_path):
    tensors = {
      "F32": torch.randn(7, 3),
      "F16": torch.randn(7, 3).half(),
      "BF16": torch.randn(7, 3).bfloat16(),
      "turned": torch.randn(3, 7).bfloat16().T,
      "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    weights = Weights(tmp_path)
    assert set(weights.names) == set(tensors)
    for name, tensor in tensors.items():
      expected = tensor.detach().float().numpy()
      np.testing.assert_array_equal(weights.read(name), expected)
      np.testing.assert_array_equal(
        weights.read(name, slice(1, 2)), expected[1:2]
      )
    assert [weights.dtype(name) for name in _DTYPES] == list(_DTYPES)

  @pytest.mark.parametrize("is_zip", [True, False])
  def test_a_pickle_that_acts_is_refused(self, torch, tmp_path, is_zip):
    trace = tmp_path / "executed"
    path = tmp_path / "pytorch_model.bin"
    if is_zip:
      torch.save({"w": torch.ones(2), "evil": _Evil(trace)}, path)
    else:
      path.write_bytes(pickle.dumps({"evil": _Evil(trace)}))
    with pytest.raises(ValueError, match="refused, nothing in it was executed"):
      Weights(tmp_path)
    assert not trace.exists()

  @pytest.mark.parametrize(
    ("content", "message"),
    [
      ({"w": 3}, "holds 'w', a <class 'int'>"),
      ([1, 2], "holds a list"),
    ],
  )
  def test_anything_but_tensors_is_named(
    self, torch, tmp_path, content, message
  ):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message):
      Weights(tmp_path)

  def test_truncated_files_are_named(self, torch, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"w": torch.arange(3), "x": torch.ones(2).bool()}, path)
    weights = Weights(tmp_path)
    assert weights.dtype("w") == "I64" and weights.dtype("x") == "torch.bool"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="refused, nothing in it was executed"):
      Weights(tmp_path)
