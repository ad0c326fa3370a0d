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


def _mix(word):
  """The finaliser of MurmurHash3, in whole numbers."""
  word = (word ^ word >> 16) * 0x85EBCA6B % 2**32
  word = (word ^ word >> 13) * 0xC2B2AE35 % 2**32
  return word ^ word >> 16


@pytest.mark.parametrize("dtype", _DTYPES)
def test_sums_follow_the_formula(dtype):
  array = np.asarray(_array(dtype)).reshape(-1)
  words = array.view(f"uint{8 * array.dtype.itemsize}").tolist()
  expected = sum(
    _mix(word ^ (i * 0x9E3779B1) % 2**32) for i, word in enumerate(words)
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


@pytest.mark.parametrize("bit", [0, 23, 30, 31])
def test_the_same_bit_turned_in_several_places_counts(bit):
  array = np.array(_array("float32"))
  before = checksums([array])
  words = array.reshape(-1).view(np.uint32)
  for count in (2, 4, 16, len(words)):
    words[:count] ^= np.uint32(1 << bit)
    assert checksums([array]) != before
    words[:count] ^= np.uint32(1 << bit)


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
  assert checksums({"step": jnp.int32(7)}) == {"step": _mix(7)}
  assert checksums({"none": jnp.zeros((0, 3))}) == {"none": 0}
  assert checksums({}) == {}
