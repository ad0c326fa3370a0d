"""The Gaussian that stands for a chunk."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Posterior(NamedTuple):
  """N(mean, exp(log_std)²), one for each chunk; float32."""

  mean: jax.Array  # [..., Z]
  log_std: jax.Array  # [..., Z]

  def sample(self, noise: jax.Array) -> jax.Array:
    """mean + std · ε for standard normal noise, [..., Z]."""
    return self.mean + jnp.exp(self.log_std) * noise
