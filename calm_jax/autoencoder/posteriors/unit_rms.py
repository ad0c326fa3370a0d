"""Means of root mean square 1, with a given standard deviation."""

import jax
import jax.numpy as jnp

from calm_jax.autoencoder.posterior import Posterior
from calm_jax.autoencoder.posteriors.given_std import GivenStdPosterior

_EPSILON = 1e-6  # of the norm, as in the layers


class UnitRmsPosterior(GivenStdPosterior):
  """N(x / RMS(x), std²): nothing can collapse or grow, so nothing is penalised.

  The standard deviation is fixed or drawn.
  """

  @property
  def is_std_drawn(self) -> bool:
    return self.config.posterior.is_std_drawn

  def read(self, outputs: jax.Array) -> Posterior:
    """Outputs are directions; their length has no meaning."""
    x = outputs.astype(jnp.float32)
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    return self.with_std(x * jax.lax.rsqrt(square + _EPSILON))

  def penalty(self, posterior: Posterior) -> jax.Array:
    return jnp.zeros(posterior.mean.shape[:-1])
