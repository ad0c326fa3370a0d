"""Arranges the devices of real TPU slices, with no TPU at hand."""

import pytest

from calm_jax.config import MeshConfig
from calm_jax.training import sharding
from tests.topologies import absent_devices

pytestmark = pytest.mark.aot


@pytest.mark.parametrize(
  ("name", "sizes", "num_parts"),
  [
    ("v5p:4x4x4", {"fsdp": 64}, 16),
    ("v5p:4x4x4", {"data": 2, "fsdp": 32}, 16),
    ("v5p:4x4x4", {"data": 8, "fsdp": 4, "tensor": 2}, 16),
    ("v5p:4x4x4", {"fsdp": 8, "tensor": 8}, 8),
    ("v6e:16x16", {"data": 2, "fsdp": 128}, 64),
    ("v6e:16x16", {"fsdp": 32, "tensor": 8}, 16),
    ("v5e:16x16", {"data": 2, "fsdp": 128}, 64),
  ],
)
def test_a_slice_takes_any_mesh(name, sizes, num_parts):
  devices = absent_devices(name)
  mesh = sharding.make_mesh(MeshConfig(**{"data": 1, **sizes}), devices)
  assert {*mesh.devices.flat} == {*devices}
  num_hosts = len({it.process_index for it in devices})
  parts = [sharding.host_slice(mesh, i) for i in range(num_hosts)]
  assert {part.index for part in parts} == {*range(num_parts)}
  assert {part.count for part in parts} == {num_parts}


def test_only_data_spans_slices():
  devices = absent_devices("v5e:4x4", num_slices=2)
  mesh = sharding.make_mesh(MeshConfig(data=4, fsdp=4, tensor=2), devices)
  for i, half in enumerate((mesh.devices[:2], mesh.devices[2:])):
    assert {device.slice_index for device in half.flat} == {i}
  mesh = sharding.make_mesh(MeshConfig(fsdp=8), devices)
  assert (mesh.shape["data"], mesh.shape["fsdp"]) == (4, 8)
  with pytest.raises(ValueError, match=r"mesh\.data 1 .* 2 .* nearest: 2\."):
    sharding.make_mesh(MeshConfig(data=1, fsdp=32), devices)
