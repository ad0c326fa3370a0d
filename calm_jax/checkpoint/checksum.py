"""Checksums of arrays, the same on every mesh.

Numbers that do not compress are stored as they are, and the files of a
checkpoint carry no checksum of them: a turned bit would train on unnoticed.
"""

from typing import Any

import jax
import jax.numpy as jnp

_SPREAD = 0x9E3779B1  # odd, so that places up to 2³² stay apart


def checksums(tree: Any) -> dict[str, int]:
  """Σ_i mix(x_i ⊕ c·i) mod 2³² of each array.

  x_i is the i-th entry's bits as an unsigned word, and `mix` the finaliser of
  MurmurHash3 (Appleby), which gives different words for different words. So one
  changed word always changes the sum, and several go unnoticed once in 2³²,
  also where the same bit is turned in all of them. Sums of integers do not
  depend on their order, so neither mesh nor number of processes matters.

  Args:
    tree: arrays of up to 32 bits an entry; all processes call it together.

  Returns:
    The sums by the arrays' places in the tree.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  sums = jax.device_get(_sums([leaf for _, leaf in leaves]))
  return {
    jax.tree_util.keystr(path, simple=True, separator="."): int(value)
    for (path, _), value in zip(leaves, sums, strict=True)
  }


@jax.jit
def _sums(leaves):
  return [_sum(leaf) for leaf in leaves]


def _sum(array: jax.Array) -> jax.Array:
  if array.dtype == jnp.bool_:
    array = array.astype(jnp.uint8)
  words = jax.lax.bitcast_convert_type(
    array, jnp.dtype(f"uint{8 * array.dtype.itemsize}")
  ).astype(jnp.uint32)
  place = jnp.zeros(array.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(array.ndim)):
    index = jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    place = place + index * jnp.uint32(stride % 2**32)
    stride *= array.shape[axis]
  mixed = _mix(words ^ (place * jnp.uint32(_SPREAD)))
  return jnp.sum(mixed, dtype=jnp.uint32)


def _mix(words: jax.Array) -> jax.Array:
  words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B)
  words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
  return words ^ (words >> 16)
