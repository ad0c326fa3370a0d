"""σ-VAE: means of any length, and a standard deviation that is drawn."""

import jax
import jax.numpy as jnp

from calm_jax.autoencoder.posterior import Posterior, PosteriorKind
from calm_jax.randomness import draw


class SigmaVaePosterior(PosteriorKind):
  """z = mean + σ·ε with σ ~ N(0, std²) for each chunk (arXiv:2412.08635).

  The encoder has no say in σ, so it cannot let the variance collapse; the
  divergence from N(0, 1) is then ½‖mean‖² and a constant.

  Deviation: what a next-vector model learns and is scored against has std in
  every chunk, the root mean square of what training draws.
  """

  def num_outputs(self, latent_size: int) -> int:
    return latent_size

  def read(self, outputs: jax.Array) -> Posterior:
    mean = outputs.astype(jnp.float32)
    log_std = jnp.log(self.config.posterior.std)
    return Posterior(mean, jnp.full_like(mean, log_std))

  def draw(
    self, posterior: Posterior, noise: jax.Array, keys: jax.Array
  ) -> jax.Array:
    scale = draw(lambda key: jax.random.normal(key, (1,)), keys)
    return posterior.sample(scale * noise)

  def penalty(self, posterior: Posterior) -> jax.Array:
    """½ Σ_z mean², nats."""
    return 0.5 * jnp.sum(jnp.square(posterior.mean), axis=-1)
