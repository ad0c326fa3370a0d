"""JAX's splash attention for TPU, fitted to any shape and to the mesh.

Splash attention (`jax.experimental.pallas.ops.tpu.splash_attention`) visits the
blocks of keys below the diagonal and never holds the scores of a row. It takes
lengths of whole tiles; what is missing is filled up here with keys that stand
after every query, where no query sees them.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as masks,
)
from jax.sharding import NamedSharding, PartitionSpec

_TILE_SIZE = 128  # positions
_BLOCK_SIZES = (512, 384, 256, 128)  # positions at once, the largest that fits
_ROW_AXES = ("data", "fsdp")  # mesh axes, see `MeshConfig`

# What a remat policy knows the results by that the backward pass reads.
SAVED_ATTENTION = "attention"


def causal_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  segment_ids: jax.Array | None = None,
  *,
  interpret: bool = False,
) -> jax.Array:
  """As `layers.attention.causal_attention`, never holding the scores.

  On a mesh with the axes of `MeshConfig` every device computes its own rows,
  heads and queries, and gathers the keys of its rows where `sequence` splits
  them. A mesh axis that does not divide its array axis does not split it.

  Args:
    query: [B, L, H, d].
    key: [B, L, G, d].
    value: [B, L, G, d].
    segment_ids: [B, L], or None.
    interpret: emulates the kernel, on any platform.

  Returns:
    [B, L, H, d] in the dtype of query.
  """
  num_rows, length, num_heads, size = query.shape
  mesh = jax.sharding.get_abstract_mesh()
  row_axes = _axes(mesh, _ROW_AXES, num_rows)
  head_axes = _axes(mesh, ("tensor",), num_heads)
  chunk_axes = _axes(mesh, ("sequence",), length)
  num_head_parts, num_parts = _count(mesh, head_axes), _count(mesh, chunk_axes)
  if key.shape[2] % num_head_parts:
    repeats = num_heads // key.shape[2]
    key, value = (jnp.repeat(x, repeats, axis=2) for x in (key, value))

  # The kernel does not scale scores.
  query = (query.astype(jnp.float32) * size**-0.5).astype(query.dtype)
  extra = -length % (_TILE_SIZE * num_parts)
  pad = lambda x: jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0)))
  arrays = [jnp.swapaxes(pad(x), 1, 2) for x in (query, key, value)]
  segments = None
  if segment_ids is not None:
    padded = jnp.pad(segment_ids, ((0, 0), (0, extra)), mode="edge")
    segments = splash.SegmentIds(padded, padded)
  kernel = _make_kernel(
    num_heads, length + extra, num_head_parts, num_parts, interpret
  )

  call = _attend_in_float32 if query.dtype == jnp.float32 else _attend
  if num_parts * num_head_parts * _count(mesh, row_axes) > 1:
    whole = PartitionSpec(row_axes, head_axes)
    split = PartitionSpec(row_axes, head_axes, chunk_axes)
    segment_specs = None
    if segments is not None:
      segment_specs = splash.SegmentIds(
        PartitionSpec(row_axes, chunk_axes), PartitionSpec(row_axes)
      )
    kernel_specs = kernel.manual_sharding_spec(
      NamedSharding(mesh, PartitionSpec(head_axes, chunk_axes))
    )
    call = jax.shard_map(
      call,
      in_specs=(kernel_specs, split, whole, whole, segment_specs),
      out_specs=split,
      check_vma=False,
    )
  out = call(kernel, *arrays, segments)
  return jnp.swapaxes(out, 1, 2)[:, :length]


def _attend(kernel, query, key, value, segments):
  return jax.vmap(kernel)(query, key, value, segments)


@jax.custom_vjp
def _attend_in_float32(*arguments):
  """The same with exact products: by default a TPU rounds them to bfloat16.

  Splash attention names no precision, and one that is set around the call does
  not reach its backward pass, which is traced later: hence rules of its own.
  """
  with jax.default_matmul_precision("highest"):
    return _attend(*arguments)


def _attend_forward(*arguments):
  with jax.default_matmul_precision("highest"):
    return jax.vjp(_attend, *arguments)


def _attend_backward(pull, slope):
  with jax.default_matmul_precision("highest"):
    return pull(slope)


_attend_in_float32.defvjp(_attend_forward, _attend_backward)


def _make_kernel(num_heads, length, num_head_parts, num_parts, interpret):
  size = next(n for n in _BLOCK_SIZES if length // num_parts % n == 0)
  mask = masks.CausalMask((length, length), shard_count=num_parts)
  return splash.make_splash_mha(
    masks.MultiHeadMask([mask] * num_heads),
    head_shards=num_head_parts,
    q_seq_shards=num_parts,
    block_sizes=splash.BlockSizes(
      block_q=size,
      block_kv=size,
      block_q_dkv=size,
      block_kv_dkv=size,
      block_q_dq=size,
      block_kv_dq=size,
    ),
    residual_checkpoint_name=SAVED_ATTENTION,
    interpret=interpret,
  )


def _axes(mesh, names, size):
  """Those of the mesh's axes that split an array axis of this size.

  Inside a `shard_map` the array is a device's own part already.
  """
  names = tuple(name for name in names if name in mesh.auto_axes)
  if not names or size % _count(mesh, names):
    return None
  return names


def _count(mesh, names):
  return math.prod(mesh.shape[name] for name in names or ())
