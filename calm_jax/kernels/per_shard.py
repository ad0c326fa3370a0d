"""Calls a function of positions on each device of a mesh for its own ones."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

Arrays = tuple[jax.Array, ...]


def num_devices_unknown() -> int:
  """Over how many devices the compiler may spread what it computes here.

  Inside a `shard_map` over all of a mesh it is one.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return math.prod(mesh.shape[axis] for axis in mesh.auto_axes)


def call(
  function: Callable[..., tuple[Arrays, Arrays]],
  partition: PartitionSpec | None,
  num_axes: int,
  arrays: Sequence[jax.Array],
  whole: Sequence[jax.Array] = (),
) -> tuple[Arrays, Arrays]:
  """Maps `function` over the shards of the first axes of `arrays`.

  XLA does not split a Pallas kernel; and where positions do not meet, devices
  need no exchange, which XLA does not see through a loop over blocks.

  Args:
    function: takes `arrays` with any number of positions, then `whole`; gives
      arrays of positions, and sums over positions to which positions of zeros
      add nothing.
    partition: mesh axes of the first axes, of the mesh of `jax.set_mesh`; None
      calls the function as it is.
    num_axes: how many first axes are axes of positions.
    arrays: with those first axes in common.
    whole: arrays that every device needs all of.

  Returns:
    The function's results, the sums being over all devices.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if partition is None or mesh.empty:
    return function(*arrays, *whole)
  names = (*partition, *[None] * num_axes)[:num_axes]
  shape = arrays[0].shape[:num_axes]
  # Shards are equal, so positions of zeros are added where they do not divide.
  extra = [
    -size % math.prod(mesh.shape[name] for name in _flatten(axes))
    for size, axes in zip(shape, names, strict=True)
  ]
  arrays = [_pad(array, extra) for array in arrays]

  def call_and_sum(*arguments):
    results, sums = function(*arguments)
    return results, jax.lax.psum(sums, _flatten(names))

  spec = PartitionSpec(*names)
  results, sums = jax.shard_map(
    call_and_sum,
    in_specs=(*[spec] * len(arrays), *[PartitionSpec()] * len(whole)),
    out_specs=(spec, PartitionSpec()),
    check_vma=False,
  )(*arrays, *whole)
  window = tuple(slice(size) for size in shape)
  return tuple(result[window] for result in results), sums


def _flatten(names):
  """The axis names in a partition's entry, or in a row of them."""
  if names is None:
    return ()
  if isinstance(names, str):
    return (names,)
  return tuple(name for entry in names for name in _flatten(entry))


def _pad(array, extra):
  if not any(extra):
    return array
  rest = [(0, 0)] * (array.ndim - len(extra))
  return jnp.pad(array, [(0, size) for size in extra] + rest)
