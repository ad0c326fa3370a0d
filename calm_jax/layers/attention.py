"""Causal self-attention with rotary positions and grouped heads."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.kernels import splash_attention
from calm_jax.kernels.product import multiply, product
from calm_jax.layers.linear import Initializer, linear
from calm_jax.layers.rope import Rotation, rope


class LayerCache(NamedTuple):
  """Keys and values of positions, a slot each.

  Slots come last: there are more of them than a head has numbers, and a TPU
  fills up the last axis to a multiple of 128.
  """

  key: jax.Array  # [B, G, d, S], already rotated
  value: jax.Array  # [B, G, d, S]


class Attention(nn.Module):
  """softmax(q · kᵀ / √d) · v; query head h uses key/value head ⌊h·G/H⌋."""

  num_heads: int
  num_kv_heads: int
  head_size: int
  dtype: jnp.dtype
  kernel_init: Initializer
  implementation: str = "auto"

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    rotation: Rotation,
    segment_ids: jax.Array | None = None,
    cache: LayerCache | None = None,
    mask: jax.Array | None = None,
  ) -> tuple[jax.Array, LayerCache | None]:
    """Attends each position to itself and to what stands before it.

    Args:
      x: [B, L, D].
      rotation: of the L positions.
      segment_ids: [B, L] int32, or None: attention across documents.
      cache: keys and values of earlier positions, or None.
      mask: [B, L, S+L] bool, needed with a cache of S slots: which of them and
        of the L positions each position sees.

    Returns:
      [B, L, D], and with a cache the keys and values of the L positions.
    """
    options = {"dtype": self.dtype, "init": self.kernel_init}
    heads = (self.num_heads, self.head_size)
    kv_heads = (self.num_kv_heads, self.head_size)
    axes = ("embed", "heads", "head_dim")
    kv_axes = ("embed", "kv_heads", "head_dim")
    query = linear(heads, axes, name="query", **options)(x)  # [B, L, H, d]
    key = linear(kv_heads, kv_axes, name="key", **options)(x)
    value = linear(kv_heads, kv_axes, name="value", **options)(x)
    query = rope(query, rotation)
    key = rope(key, rotation)
    new = None
    if cache is None:
      out = causal_attention(
        query, key, value, segment_ids, implementation=self.implementation
      )
    else:
      new = LayerCache(
        *(jnp.moveaxis(x, 1, -1).astype(cache.key.dtype) for x in (key, value))
      )
      out = cached_attention(query, cache, new, mask)
    project = linear(
      x.shape[-1],
      ("heads", "head_dim", "embed"),
      num_input_axes=2,
      name="output",
      **options,
    )
    return project(out), new


def causal_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  segment_ids: jax.Array | None = None,
  *,
  implementation: str = "auto",
) -> jax.Array:
  """Attention of each position to itself and to what stands before it.

  Arrays in float32 are multiplied in float32, whatever the implementation.

  Args:
    query: [B, L, H, d].
    key: [B, L, G, d].
    value: [B, L, G, d].
    segment_ids: [B, L]; positions see only their own segment. None: all.
    implementation: reference, or xla for `jax.nn.dot_product_attention`, or
      pallas for splash attention, which other platforms than TPU emulate. auto
      is splash attention on TPU, cuDNN where a GPU is at hand and the shape
      fits it (16 bits a number, an even length, a head of up to 128 numbers, or
      256 from compute capability 9.0 on, that is a multiple of 8), and the
      reference elsewhere.

  Returns:
    [B, L, H, d] in the dtype of query.

  Raises:
    ValueError: for pallas on a GPU, for which there is none.
  """
  has_gpu = jax.default_backend() == "gpu"
  if implementation == "pallas" and has_gpu:
    raise ValueError(
      "attention_implementation is pallas, which is for TPU; on a GPU take auto"
      " (cuDNN where it can), xla or reference."
    )
  reference = functools.partial(_causal, masked_attention)
  splash = splash_attention.causal_attention
  versions = {"default": reference, "tpu": splash}
  if has_gpu and _fits_cudnn(query):
    versions["cuda"] = _cudnn
  call = {
    "auto": functools.partial(jax.lax.platform_dependent, **versions),
    "reference": reference,
    "xla": functools.partial(_causal, _xla),
    "pallas": functools.partial(
      jax.lax.platform_dependent,
      tpu=splash,
      default=functools.partial(splash, interpret=True),
    ),
  }[implementation]
  return call(query, key, value, segment_ids)


def _causal(attend, query, key, value, segment_ids):
  """Attention by a version that takes what each position sees, [B, L, L]."""
  length = query.shape[1]
  mask = jnp.tril(jnp.ones((length, length), bool))[None]
  if segment_ids is not None:
    mask = mask & _same_segment(segment_ids)
  return attend(query, key, value, mask)


def _xla(query, key, value, mask):
  attend = functools.partial(jax.nn.dot_product_attention, implementation="xla")
  if query.dtype != jnp.float32:
    return attend(query, key, value, mask=mask[:, None])
  # Which would be TF32 on GPUs, and bfloat16 on TPUs.
  with jax.default_matmul_precision("highest"):
    return attend(query, key, value, mask=mask[:, None])


def _fits_cudnn(query: jax.Array) -> bool:
  _, length, _, size = query.shape
  is_short = query.dtype in (jnp.bfloat16, jnp.float16)
  is_hopper_or_later = all(
    int(str(device.compute_capability).split(".")[0]) >= 9
    for device in jax.local_devices(backend="gpu")
  )
  limit = 256 if is_hopper_or_later else 128  # as JAX has it
  return is_short and length % 2 == 0 and size % 8 == 0 and size <= limit


def _cudnn(query, key, value, segment_ids):
  # Only where the process has a GPU: JAX looks for cuDNN while it traces.
  mask = None
  if segment_ids is not None:
    mask = _same_segment(segment_ids)[:, None]
  return jax.nn.dot_product_attention(
    query, key, value, mask=mask, is_causal=True, implementation="cudnn"
  )


def _same_segment(segment_ids: jax.Array) -> jax.Array:
  return segment_ids[:, :, None] == segment_ids[:, None, :]


def masked_attention(
  query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
  """The definition: softmax in float32 over the allowed slots.

  Args:
    query: [B, L, H, d].
    key: [B, S, G, d].
    value: [B, S, G, d].
    mask: [B or 1, L, S] bool; every query has at least one slot.

  Returns:
    [B, L, H, d] in the dtype of query.
  """
  rows, length, num_heads, size = query.shape
  groups = key.shape[2]
  grouped = query.reshape(rows, length, groups, num_heads // groups, size)
  scores = product("blgqd,bsgd->bgqls", grouped, key, result_dtype=jnp.float32)
  scores = jnp.where(mask[:, None, None], scores / size**0.5, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  out = product("bgqls,bsgd->blgqd", weights, value)
  return out.reshape(query.shape)


def cached_attention(
  query: jax.Array, cache: LayerCache, new: LayerCache, mask: jax.Array
) -> jax.Array:
  """`masked_attention` over the slots of a cache and what follows them.

  Nothing of the cache is copied: both parts are multiplied where they lie, and
  share the sum of the softmax.

  Args:
    query: [B, L, H, d].
    cache: S slots.
    new: L slots.
    mask: [B or 1, L, S+L] bool; every query sees at least one slot.

  Returns:
    [B, L, H, d] in the dtype of query.
  """
  rows, length, num_heads, size = query.shape
  groups = new.key.shape[1]
  grouped = query.reshape(rows, length, groups, num_heads // groups, size)
  parts = (cache, new) if cache.key.shape[-1] else (new,)
  scores = [
    multiply("blgqd,bgds->bgqls", grouped, part.key, jnp.float32)
    for part in parts
  ]
  scores = jnp.concatenate(scores, axis=-1)
  scores = jnp.where(mask[:, None, None], scores / size**0.5, -jnp.inf)
  weights = jax.nn.softmax(scores, axis=-1).astype(new.value.dtype)
  weights = jnp.split(weights, [part.key.shape[-1] for part in parts[:-1]], -1)
  out = sum(
    multiply("bgqls,bgds->blgqd", share, part.value, jnp.float32)
    for share, part in zip(weights, parts, strict=True)
  )
  return out.reshape(query.shape).astype(query.dtype)
