"""The Llama-like transformer shared by both model families (paper §3.1)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config import BackboneConfig
from calm_jax.kernels import per_shard
from calm_jax.kernels.bits import from_bits, to_bits
from calm_jax.layers.activation import constrain_rows
from calm_jax.layers.attention import Attention, LayerCache
from calm_jax.layers.mlp import SwiGLU
from calm_jax.layers.norm import RMSNorm
from calm_jax.layers.remat import remat
from calm_jax.layers.rope import Rotation, rotation


class Cache(NamedTuple):
  """Keys and values of all layers; see `LayerCache`."""

  key: jax.Array  # [layers, B, G, d, S]
  value: jax.Array  # [layers, B, G, d, S]


def empty_cache(config: BackboneConfig, num_rows: int, length: int) -> Cache:
  """A cache for `num_rows` rows of `length` slots."""
  shape = (
    config.num_layers,
    num_rows,
    config.num_kv_heads or config.num_heads,
    config.head_size,
    length,
  )
  zeros = jnp.zeros(shape, config.dtype)
  return Cache(zeros, zeros)


def _write(cache: Cache, new: Cache, slot: jax.Array) -> Cache:
  """Puts new entries, [layers, B, G, d, L], into the slots from `slot` on."""
  return jax.tree.map(
    lambda slots, new: jax.lax.dynamic_update_slice_in_dim(
      slots, new, slot, axis=-1
    ),
    cache,
    new,
  )


def _append(cache: Cache, new: Cache) -> Cache:
  return jax.tree.map(
    lambda *parts: jnp.concatenate(parts, axis=-1), cache, new
  )


def _is_cpu() -> bool:
  device = jax.sharding.get_abstract_mesh().abstract_device  # None: no mesh
  return (device.device_kind if device else jax.default_backend()) == "cpu"


def _is_lone_cpu() -> bool:
  """Whether the program is for a CPU that shares this work with no other.

  There the layers are written out one after another, which saves up to a tenth
  of a training step: a loop reads weights, and writes what the backward pass
  needs and gradients, as slices of one array for all layers.
  """
  return _is_cpu() and per_shard.num_devices_unknown() == 1


class Layer(nn.Module):
  """x + attention(norm(x)), then x + SwiGLU(norm(x))."""

  config: BackboneConfig

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    rotation: Rotation,
    segment_ids: jax.Array | None,
    cache: LayerCache | None,
    mask: jax.Array | None,
  ) -> tuple[jax.Array, LayerCache | None]:
    config = self.config
    dtype = jnp.dtype(config.dtype)
    init = nn.initializers.normal(config.init_std)
    attention = Attention(
      config.num_heads,
      config.num_kv_heads or config.num_heads,
      config.head_size,
      dtype,
      init,
      config.attention_implementation,
      name="attention",
    )
    x = constrain_rows(x)
    normed = RMSNorm(config.norm_epsilon, name="attention_norm")(x)
    attended, new = attention(normed, rotation, segment_ids, cache, mask)
    x = x + attended
    normed = RMSNorm(config.norm_epsilon, name="mlp_norm")(x)
    return x + SwiGLU(config.ffn_size, dtype, init, name="mlp")(normed), new


class Backbone(nn.Module):
  """A stack of layers, scanned, and a final norm."""

  config: BackboneConfig

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    positions: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
    cache: Cache | None = None,
    mask: jax.Array | None = None,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache | None]:
    """Maps embedded positions to the hidden states that predict the next.

    Args:
      x: [B, L, D].
      positions: [B, L] int32; None: 0 … L−1 in every row.
      segment_ids: [B, L] int32, read only with `use_segment_mask`.
      cache: None, or that of the positions before these.
      mask: [B, L, S+L] bool, needed with a cache of S slots: which of them and
        of the L positions each position sees.
      slot: [] int32, where the L positions are written into the cache, the same
        slots for all rows; None: they are appended to it as slots of their own,
        so that several continuations of one row can stand side by side.

    Returns:
      Hidden states, [B, L, D], and the cache with these positions in it.
    """
    config = self.config
    chex.assert_shape(x, (None, None, config.hidden_size))
    if positions is None:
      positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
    else:
      chex.assert_equal_shape_prefix([x, positions], 2)
    angles = rotation(positions, config.head_size, theta=config.rope_theta)
    if not config.use_segment_mask:
      segment_ids = None
    is_plain = cache is None and config.remat == "none"
    # Those of a model that is only asked; training keeps float32.
    are_short = any(
      x.dtype == jnp.bfloat16 for x in jax.tree.leaves(self.variables)
    )
    takes_bits = are_short and _is_cpu()
    # A loop keeps XLA from merging forward and recomputation.
    layer = remat(Layer, config.remat, prevent_cse=False)
    if takes_bits:
      layer = nn.map_variables(layer, "params", from_bits)
    stack = nn.scan(
      layer,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, nn.broadcast, 0, nn.broadcast),
      length=config.num_layers,
      unroll=config.num_layers if is_plain and _is_lone_cpu() else 1,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    if takes_bits:
      stack = nn.map_variables(stack, "params", to_bits)
    stack = stack(config, name="layers")
    layer_caches = None if cache is None else LayerCache(*cache)
    x, new = stack(x, angles, segment_ids, layer_caches, mask)
    x = RMSNorm(config.norm_epsilon, name="norm")(x)
    if cache is None:
      return x, None
    # Once for all layers, after all have read it: so it stays where it lies.
    new = Cache(*new)
    return x, _append(cache, new) if slot is None else _write(cache, new, slot)
