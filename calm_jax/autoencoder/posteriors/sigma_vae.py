"""σ-VAE: means of any length, and a standard deviation that is drawn."""

import jax
import jax.numpy as jnp

from calm_jax.autoencoder.posterior import Posterior
from calm_jax.autoencoder.posteriors.given_std import GivenStdPosterior


class SigmaVaePosterior(GivenStdPosterior):
  """z = mean + σ·ε with σ ~ N(0, std²) for each chunk (arXiv:2412.08635).

  The encoder has no say in σ, so it cannot let the variance collapse; the
  divergence from N(0, 1) is then ½‖mean‖² and a constant.
  """

  is_std_drawn = True

  def read(self, outputs: jax.Array) -> Posterior:
    """Outputs are the means."""
    return self.with_std(outputs.astype(jnp.float32))

  def penalty(self, posterior: Posterior) -> jax.Array:
    """½ Σ_z mean², nats."""
    return 0.5 * jnp.sum(jnp.square(posterior.mean), axis=-1)
