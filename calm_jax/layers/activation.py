"""How activations and the positions of losses are split over devices."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

# The mesh axes, see `MeshConfig`, that split rows and chunks of a batch.
_SPEC = (("data", "fsdp"), "sequence")


def constrain_rows(x: jax.Array) -> jax.Array:
  """Keeps x, [B, L, …], split by rows and chunks and otherwise whole.

  Without it the compiler may gather the batch instead of the parameters that
  `fsdp` splits. Without a mesh of these axes, or where they do not divide the
  array, nothing is asked of it; nor inside a `shard_map`, where x is a device's
  own part.
  """
  if not _can_split(x):
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*_SPEC))


def _can_split(x: jax.Array) -> bool:
  """Whether there are such axes, and rows and chunks of x divide by them."""
  mesh = jax.sharding.get_abstract_mesh()
  if not {"data", "fsdp", "sequence"} <= set(mesh.auto_axes):
    return False
  num_row_parts = mesh.shape["data"] * mesh.shape["fsdp"]
  return not (x.shape[0] % num_row_parts or x.shape[1] % mesh.shape["sequence"])


def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
  """table[ids], split by rows and, as the table, by columns.

  Every device looks up its columns of more rows than its own. So it has its
  columns of the table's gradient; else it would have a share of all of them,
  which the devices would have to add up and send each other whole.

  Args:
    table: [V, D].
    ids: [B, L, …].

  Returns:
    [B, L, …, D].
  """
  mesh = jax.sharding.get_abstract_mesh()
  look = functools.partial(jnp.take, table, axis=0)
  # Rows that do not divide could not be split again, and stay as they are.
  if not _can_split(ids) or table.shape[1] % mesh.shape["fsdp"]:
    return look(ids)
  constrain = jax.lax.with_sharding_constraint
  rows = PartitionSpec("data", "sequence")
  middle = (None,) * (ids.ndim - 2)
  return constrain(
    look(constrain(ids, rows)), PartitionSpec(*rows, *middle, "fsdp")
  )


def position_partition() -> PartitionSpec | None:
  """How a loss shares out positions, [B, L, …]; None without a mesh of ours.

  A loss of each position alone needs no exchange, so the devices along `tensor`
  take chunks of their own, too, where they would all score the same ones.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not {"data", "fsdp", "tensor", "sequence"} <= set(mesh.auto_axes):
    return None
  rows, chunks = _SPEC
  return PartitionSpec(rows, (chunks, "tensor"))
