"""The residual block of encoder and decoder."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config import AutoencoderConfig
from calm_jax.layers.activation import constrain_rows
from calm_jax.layers.linear import Initializer
from calm_jax.layers.mlp import SwiGLU
from calm_jax.layers.norm import RMSNorm


class Block(nn.Module):
  """x + SwiGLU(RMSNorm(x)), at token level or at chunk level (paper §2)."""

  config: AutoencoderConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., E] to [..., E]."""
    config = self.config
    norm = RMSNorm(config.norm_epsilon, name="norm")
    mlp = SwiGLU(
      config.ffn_size, compute_dtype(config), initializer(config), name="mlp"
    )
    x = constrain_rows(x)
    return x + mlp(norm(x))


def compute_dtype(config: AutoencoderConfig) -> jnp.dtype:
  return jnp.dtype(config.dtype)


def initializer(config: AutoencoderConfig) -> Initializer:
  return nn.initializers.normal(config.init_std)
