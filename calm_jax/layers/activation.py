"""How activations and the positions of losses are split over devices."""

import jax
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
  mesh = jax.sharding.get_abstract_mesh()
  if not {"data", "fsdp", "sequence"} <= set(mesh.auto_axes):
    return x
  num_row_parts = mesh.shape["data"] * mesh.shape["fsdp"]
  if x.shape[0] % num_row_parts or x.shape[1] % mesh.shape["sequence"]:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*_SPEC))


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
