"""Normalisation in float32, returned in the dtype of the input.

It is computed again in the backward pass, which so keeps the input as it came,
not also what is centred and scaled, in float32.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.layers.remat import remat

_RMSNorm = remat(nn.RMSNorm, "full", prevent_cse=False)
_LayerNorm = remat(nn.LayerNorm, "full", prevent_cse=False)


class RMSNorm(nn.Module):
  """x / √(mean(x²) + ε) · scale over the last axis."""

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    ones = nn.with_logical_partitioning(nn.initializers.ones, ("norm",))
    norm = _RMSNorm(
      epsilon=self.epsilon,
      dtype=jnp.float32,
      scale_init=ones,
      use_fast_variance=False,
      name="norm",
    )
    return norm(x).astype(x.dtype)


class LayerNorm(nn.Module):
  """(x − mean) / √(var + ε) · scale + bias over the last axis."""

  epsilon: float = 1e-6
  use_affine: bool = True  # scale and bias

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers
    norm = _LayerNorm(
      epsilon=self.epsilon,
      dtype=jnp.float32,
      use_scale=self.use_affine,
      use_bias=self.use_affine,
      scale_init=nn.with_logical_partitioning(init.ones, ("norm",)),
      bias_init=nn.with_logical_partitioning(init.zeros, ("norm",)),
      # E[x²] − E[x]² cancels when the mean is large against the spread.
      use_fast_variance=False,
      name="norm",
    )
    return norm(x).astype(x.dtype)
