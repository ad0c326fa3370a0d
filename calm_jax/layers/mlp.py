"""The gated feed-forward layer of Llama."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.layers.linear import Initializer, linear
from calm_jax.layers.silu import silu_gate


class SwiGLU(nn.Module):
  """down( SiLU(gate(x)) ⊙ up(x) ), without biases."""

  ffn_size: int
  dtype: jnp.dtype
  kernel_init: Initializer

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., D] to [..., D]."""
    options = {"dtype": self.dtype, "init": self.kernel_init}
    gate = linear(self.ffn_size, ("embed", "mlp"), name="gate", **options)
    up = linear(self.ffn_size, ("embed", "mlp"), name="up", **options)
    down = linear(x.shape[-1], ("mlp", "embed"), name="down", **options)
    return down(silu_gate(gate(x), up(x)))
