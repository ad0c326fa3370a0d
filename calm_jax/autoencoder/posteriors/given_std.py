"""What posteriors share whose standard deviation is a setting."""

import math

import jax
import jax.numpy as jnp

from calm_jax.autoencoder.posterior import Posterior, PosteriorKind
from calm_jax.randomness import draw


class GivenStdPosterior(PosteriorKind):
  """Means from the encoder, and `config.posterior.std` for every dimension.

  Where it is drawn, z = mean + std·n·ε with n ~ N(0, 1) for each chunk: the
  decoder learns little and much noise, and the variance over all chunks is
  still std².

  Deviation: what a next-vector model learns and is scored against has std in
  every chunk, the root mean square of what training draws.
  """

  is_std_drawn: bool  # in training

  def num_outputs(self, latent_size: int) -> int:
    return latent_size

  def draw(
    self, posterior: Posterior, noise: jax.Array, keys: jax.Array
  ) -> jax.Array:
    if self.is_std_drawn:
      noise = noise * draw(lambda key: jax.random.normal(key, (1,)), keys)
    return posterior.sample(noise)

  def with_std(self, mean: jax.Array) -> Posterior:
    """The posterior of means, [..., Z] float32."""
    log_std = math.log(self.config.posterior.std)
    return Posterior(mean, jnp.full_like(mean, log_std))
