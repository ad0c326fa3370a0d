"""The network of the diffusion, flow and flow-map heads: an AdaLN MLP.

Time and hidden state do not enter as inputs: they set shift, scale and gate of
every block's normalised activations (arXiv:2212.09748, arXiv:2406.11838).
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calm_jax.layers.activation import constrain_rows
from calm_jax.layers.linear import linear
from calm_jax.layers.norm import LayerNorm
from calm_jax.layers.silu import silu

_NUM_FREQUENCIES = 128
_MAX_PERIOD = 10_000


class AdaLNBlock(nn.Module):
  """x + gate ⊙ MLP(LN(x)·(1 + scale) + shift)."""

  hidden_size: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array, modulation: jax.Array) -> jax.Array:
    """Maps x and SiLU of the condition, [..., D] each, to [..., D]."""
    size = self.hidden_size
    options = {"dtype": self.dtype, "use_bias": True}
    xavier = {"init": nn.initializers.xavier_uniform(), **options}
    inner = linear(size, ("embed", "mlp"), name="inner", **xavier)
    outer = linear(size, ("mlp", "embed"), name="outer", **xavier)
    modulate = linear(
      3 * size,
      ("embed", "mlp"),
      init=nn.initializers.zeros,
      name="modulation",
      **options,
    )
    x, modulation = constrain_rows(x), constrain_rows(modulation)
    shift, scale, gate = jnp.split(modulate(modulation), 3, axis=-1)
    y = LayerNorm(name="norm")(x) * (1 + scale) + shift
    return x + gate * outer(silu(inner(y)))


class AdaLNNetwork(nn.Module):
  """What diffusion and flow heads evaluate at every step of sampling."""

  num_blocks: int
  hidden_size: int  # D
  latent_size: int  # Z
  output_size: int
  dtype: jnp.dtype
  init_std: float = 0.02  # of the time MLP alone

  def setup(self):
    size = self.hidden_size
    options = {"dtype": self.dtype, "use_bias": True}
    xavier = {"init": nn.initializers.xavier_uniform(), **options}
    normal = {"init": nn.initializers.normal(self.init_std), **options}
    zeros = {"init": nn.initializers.zeros, "use_bias": True}
    self.latent_embed = linear(size, ("latent", "embed"), **xavier)
    self.condition_embed = linear(size, ("embed", "mlp"), **xavier)
    self.time_inner = linear(size, (None, "mlp"), **normal)
    self.time_outer = linear(size, ("mlp", "embed"), **normal)
    self.blocks = [AdaLNBlock(size, self.dtype) for _ in range(self.num_blocks)]
    self.modulation = linear(
      2 * size, ("embed", "mlp"), dtype=self.dtype, **zeros
    )
    self.norm = LayerNorm(use_affine=False)
    self.outer = linear(
      self.output_size, ("embed", "latent"), dtype=jnp.float32, **zeros
    )

  def __call__(
    self, x: jax.Array, times: jax.Array, condition: jax.Array
  ) -> jax.Array:
    """Evaluates the network.

    Args:
      x: [..., Z], latents on their way from noise to data.
      times: [...], integers in 0 … 999 (flow map: float32 in [0, 1]); an axis
        of size 1 where all share one computes what depends on the time and the
        condition once for them.
      condition: [..., D] from `embed_condition`, broadcastable to x.

    Returns:
      [..., output_size] float32.
    """
    chex.assert_axis_dimension(x, -1, self.latent_size)
    chex.assert_rank(times, x.ndim - 1)
    chex.assert_is_broadcastable(times.shape, x.shape[:-1])
    time = self.time_inner(sinusoid(times))
    modulation = silu(self.time_outer(silu(time)) + condition)
    x = self.latent_embed(x)
    for block in self.blocks:
      x = block(x, modulation)
    shift, scale = jnp.split(
      self.modulation(modulation).astype(jnp.float32), 2, axis=-1
    )
    return self.outer(self.norm(x.astype(jnp.float32)) * (1 + scale) + shift)

  def embed_condition(self, hidden: jax.Array) -> jax.Array:
    """The part that does not depend on time: [..., D] → [..., D]."""
    return self.condition_embed(hidden)


def sinusoid(times: jax.Array) -> jax.Array:
  """[cos(t·f), sin(t·f)] with f_j = 10000^(−j/128): [...] → [..., 256]."""
  frequencies = np.float32(
    _MAX_PERIOD ** (-np.arange(_NUM_FREQUENCIES) / _NUM_FREQUENCIES)
  )
  shape = (1,) * times.ndim + (-1,)
  angles = times.astype(jnp.float32)[..., None] * frequencies.reshape(shape)
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
