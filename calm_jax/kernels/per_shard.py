"""Calls a function of positions on each device of a mesh for its own ones."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def call(
  function: Callable[..., tuple[jax.Array, ...]],
  partition: PartitionSpec | None,
  num_axes: int,
  *arrays: jax.Array,
) -> tuple[jax.Array, ...]:
  """Maps `function` over the shards of the first axes of all arrays.

  XLA does not split a Pallas kernel; and a function whose positions do not
  meet needs no exchange between devices, which XLA does not always see.

  Args:
    function: of arrays with `num_axes` common first axes, to such arrays; each
      position's result depends on that position only.
    partition: mesh axes of the first axes, of the mesh of `jax.set_mesh`; None
      calls the function as it is.
    num_axes: how many first axes are axes of positions.
    *arrays: the arguments.

  Returns:
    The function's results.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if partition is None or mesh.empty:
    return function(*arrays)
  names = (*partition, *[None] * num_axes)[:num_axes]
  shape = arrays[0].shape[:num_axes]
  # Shards are equal, so positions are added up to a multiple of the devices.
  extra = [-n % _num_shards(mesh, m) for n, m in zip(shape, names, strict=True)]
  arrays = [_pad(a, extra) for a in arrays]
  spec = PartitionSpec(*names)
  results = jax.shard_map(
    function, in_specs=spec, out_specs=spec, check_vma=False
  )(*arrays)
  window = tuple(slice(n) for n in shape)
  return tuple(result[window] for result in results)


def _num_shards(mesh, names):
  names = () if names is None else names
  names = (names,) if isinstance(names, str) else names
  sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
  count = 1
  for name in names:
    count *= sizes[name]
  return count


def _pad(array, extra):
  if not any(extra):
    return array
  rest = [(0, 0)] * (array.ndim - len(extra))
  return jnp.pad(array, [(0, n) for n in extra] + rest)
