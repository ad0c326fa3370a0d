"""Means of root mean square 1, with a given standard deviation."""

import jax
import jax.numpy as jnp

from calm_jax.autoencoder.posterior import Posterior, PosteriorKind
from calm_jax.randomness import draw

_EPSILON = 1e-6  # of the norm, as in the layers


class UnitRmsPosterior(PosteriorKind):
  """N(x / RMS(x), std²): nothing can collapse or grow, so nothing is penalised.

  With a drawn standard deviation z = mean + std·n·ε with n ~ N(0, 1) for each
  chunk: the decoder learns little and much noise, and the variance over all
  chunks is still std².

  Deviation: what a next-vector model learns and is scored against has std in
  every chunk, the root mean square of what training draws.
  """

  def num_outputs(self, latent_size: int) -> int:
    return latent_size

  def read(self, outputs: jax.Array) -> Posterior:
    """Outputs are directions; their length has no meaning."""
    x = outputs.astype(jnp.float32)
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    mean = x * jax.lax.rsqrt(square + _EPSILON)
    return Posterior(mean, jnp.full_like(mean, jnp.log(self._std)))

  def draw(
    self, posterior: Posterior, noise: jax.Array, keys: jax.Array
  ) -> jax.Array:
    if self.config.posterior.is_std_drawn:
      noise = noise * draw(lambda key: jax.random.normal(key, (1,)), keys)
    return posterior.sample(noise)

  def penalty(self, posterior: Posterior) -> jax.Array:
    return jnp.zeros(posterior.mean.shape[:-1])

  @property
  def _std(self) -> float:
    return self.config.posterior.std
