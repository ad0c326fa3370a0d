"""Tests calm_jax/checkpoint/checksum.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from calm_jax.checkpoint.checksum import checksums

_DTYPES = ("float32", "bfloat16", "int32", "uint8", "bool")


def _array(dtype, shape=(6, 5, 4)):
  values = np.random.default_rng(0).normal(size=shape)
  return jnp.asarray(100 * values).astype(dtype)


@pytest.mark.parametrize("dtype", _DTYPES)
def test_sums_follow_the_formula(dtype):
  array = np.asarray(_array(dtype)).reshape(-1)
  words = array.view(f"uint{8 * array.dtype.itemsize}").tolist()
  expected = sum(
    (2 * i * 0x9E3779B1 + 1) * word for i, word in enumerate(words)
  )
  assert checksums({"a": _array(dtype)}) == {"a": expected % 2**32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_bit_counts(dtype):
  array = np.array(_array(dtype))
  before = checksums([array])
  words = array.reshape(-1).view(f"uint{8 * array.dtype.itemsize}")
  for bit in range(8 * array.dtype.itemsize):
    words[7 * bit % len(words)] ^= 1 << bit
    after = checksums([array])
    assert after != before
    before = after


def test_places_count():
  array = _array("float32")
  assert checksums([array]) != checksums([array[::-1]])
  assert checksums([array]) != checksums([jnp.swapaxes(array, 1, 2)])


def test_no_mesh_matters():
  array = _array("float32", (8, 6, 4))
  expected = checksums({"x": {"y": array}})
  assert list(expected) == ["x.y"]
  for shape in ((8, 1), (2, 4), (4, 2)):
    mesh = jax.make_mesh(shape, ("a", "b"))
    for spec in (PartitionSpec("a"), PartitionSpec("b", None, None)):
      placed = jax.device_put(array, NamedSharding(mesh, spec))
      assert checksums({"x": {"y": placed}}) == expected


def test_scalars_and_nothing():
  assert checksums({"step": jnp.int32(7)}) == {"step": 7}
  assert checksums({"none": jnp.zeros((0, 3))}) == {"none": 0}
  assert checksums({}) == {}
