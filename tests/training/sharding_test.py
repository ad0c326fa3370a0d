"""Tests calm_jax/training/sharding.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from calm_jax.config import MeshConfig
from calm_jax.training import sharding
from tests.training import tiny


def _mesh(data=1, fsdp=1, tensor=1, sequence=1):
  return sharding.make_mesh(
    MeshConfig(data=data, fsdp=fsdp, tensor=tensor, sequence=sequence)
  )


def _place(mesh, shape, *names):
  shapes = {"a": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}
  axes = {"a": {"kernel": PartitionSpec(*names)}}
  found, notes = sharding.place_params(mesh, shapes, axes)
  return tuple(found["a"]["kernel"].spec), notes


def test_what_is_left_goes_to_data():
  assert dict(_mesh(data=-1, fsdp=2).shape) == {
    "data": 4,
    "fsdp": 2,
    "tensor": 1,
    "sequence": 1,
  }


@pytest.mark.parametrize(
  ("sizes", "nearest"),
  [
    ({"data": 3}, r"data 8 × fsdp 1 × .* or data 4 × fsdp 2"),
    ({"data": -1, "fsdp": 3}, r"fsdp 4"),
    ({"data": 1, "fsdp": 16}, r"data 1 × fsdp 8 × tensor 1"),
    ({"data": 1, "tensor": 4}, r"data 2 × fsdp 1 × tensor 4"),
  ],
)
def test_a_mesh_that_does_not_fit_names_the_nearest(sizes, nearest):
  with pytest.raises(ValueError, match=f"the 8 devices; .*{nearest}"):
    _mesh(**sizes)


def test_nearest_meshes_multiply_to_the_devices():
  try:
    _mesh(data=5, fsdp=3, tensor=2)
  except ValueError as error:
    offers = str(error).split("do are ")[1].rstrip(".").split(" or ")
  for offer in offers:
    assert np.prod([int(part.split()[1]) for part in offer.split(" × ")]) == 8


@dataclasses.dataclass(frozen=True)
class _Gpu:
  """A device of one of several hosts, which JAX numbers as slices."""

  id: int
  slice_index: int
  platform: str = "gpu"
  device_kind: str = "H100"


def test_a_mesh_may_span_hosts_with_gpus():
  devices = [_Gpu(i, i // 4) for i in range(8)]
  mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=8), devices)
  assert list(mesh.devices.flat) == devices


def test_the_table_splits_what_divides():
  mesh = _mesh(fsdp=4, tensor=2)
  assert _place(mesh, (16, 32), "embed", "mlp") == (("fsdp", "tensor"), [])
  spec, notes = _place(mesh, (3, 16, 4, 8), "layers", "embed", "heads", None)
  assert (spec, notes) == ((None, "fsdp", "tensor", None), [])
  assert _place(mesh, (16,), "norm") == ((None,), [])


def test_a_width_that_does_not_divide_goes_elsewhere_and_says_so():
  mesh = _mesh(fsdp=2, tensor=4)
  # 86 = 2 · 43 stands for the paper's 2752 and 6880.
  spec, notes = _place(mesh, (16, 86), "embed", "mlp")
  assert spec == (("fsdp", "tensor"), None)
  assert notes == [
    "a.kernel: mlp 86 does not divide by tensor 4; embed 16 does"
  ]
  spec, notes = _place(mesh, (86, 3), "mlp", None)
  assert spec == (None, None)
  assert notes == ["a.kernel: mlp 86 does not divide by tensor 4; kept whole"]
  spec, notes = _place(_mesh(tensor=8), (5, 16, 4), "layers", "embed", "heads")
  assert spec == (None, "tensor", None)
  assert "heads 4 does not divide by tensor 8; embed 16 does" in notes[0]


def test_one_mesh_axis_splits_one_axis_of_an_array():
  mesh = _mesh(fsdp=8)
  assert _place(mesh, (16, 32), "embed", "embed")[0] == ("fsdp", None)
  # The second takes it where the first does not divide, which needs no note.
  assert _place(mesh, (12, 32), "embed", "embed") == ((None, "fsdp"), [])


@pytest.mark.parametrize(
  ("mesh", "changes", "message"),
  [
    ({"data": 8}, {"batch_size": 12}, "batch_size 12 .* nearest: 8 and 16"),
    ({"fsdp": 8}, {"num_microbatches": 2}, "multiple of 16 .* nearest: 16"),
    (
      {"data": 4, "sequence": 2},
      {"num_chunks": 5},
      "chunks in a row 5 .* nearest: 4 and 6",
    ),
    ({"tensor": 8}, {}, r"num_heads 4 .* mesh\.tensor 8; .* from 1, 2, 4"),
  ],
)
def test_what_does_not_fit_the_mesh_is_named(mesh, changes, message):
  experiment = tiny.experiment("next_vector", **changes)
  with pytest.raises(ValueError, match=message):
    sharding.check_fit(experiment, _mesh(**mesh))


def test_one_process_reads_the_whole_batch():
  assert sharding.host_slice(_mesh(data=2, fsdp=2, tensor=2)) == (0, 1)


class _Device:
  """A device of some process, as `host_slice` sees it."""

  def __init__(self, process_index):
    self.process_index = process_index


class _Rows:
  """Stands for a sharding: which device holds which rows."""

  def __init__(self, owners, num_copies):
    self._owners, self._num_copies = owners, num_copies

  def devices_indices_map(self, shape):
    return {
      _Device(owner): (slice(i // self._num_copies, None),)
      for i, owner in enumerate(self._owners)
    }


@pytest.mark.parametrize(
  ("owners", "tensor", "expected"),
  [
    ([0, 0, 0, 0, 1, 1, 1, 1], 1, [(0, 2), (1, 2)]),
    ([0, 0, 1, 1, 2, 2, 3, 3], 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ([0, 0, 1, 1, 2, 2, 3, 3], 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ([0, 0, 0, 0, 1, 1, 1, 1], 8, [(0, 1), (0, 1)]),
    ([0, 0, 0, 1, 1, 1, 2, 2], 2, None),
  ],
)
def test_processes_with_the_same_rows_read_the_same(
  owners, tensor, expected, monkeypatch
):
  mesh = _mesh(data=8 // tensor, tensor=tensor)
  monkeypatch.setattr(
    sharding, "row_sharding", lambda mesh: _Rows(owners, tensor)
  )
  if expected is None:
    with pytest.raises(ValueError, match="share a part of their rows"):
      sharding.host_slice(mesh, 0)
  else:
    found = [sharding.host_slice(mesh, i) for i in range(max(owners) + 1)]
    assert found == expected


def test_a_global_batch_is_the_rows_that_were_read():
  experiment = tiny.experiment("next_vector")
  rows = tiny.batch(experiment)
  found = sharding.global_batch(_mesh(data=4, sequence=2), rows, 1)
  for array, expected in zip(found, rows, strict=True):
    np.testing.assert_array_equal(array, expected)
  assert tuple(found.tokens.sharding.spec) == (("data", "fsdp"), "sequence")
