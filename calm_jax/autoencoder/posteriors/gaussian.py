"""The paper's posterior: every dimension has a standard deviation (§2.2)."""

import jax
import jax.numpy as jnp

from calm_jax.autoencoder.posterior import Posterior, PosteriorKind
from calm_jax.losses.reconstruction import clipped_kl


class GaussianPosterior(PosteriorKind):
  """N(mean, std²), both from the encoder, drawn to N(0, 1) by clipped KL."""

  def num_outputs(self, latent_size: int) -> int:
    return 2 * latent_size

  def read(self, outputs: jax.Array) -> Posterior:
    """Outputs are [mean, log_std]."""
    return Posterior(*jnp.split(outputs, 2, axis=-1))

  def penalty(self, posterior: Posterior) -> jax.Array:
    """Σ_z max(kl_floor, KL_z) (paper §2.2)."""
    return clipped_kl(*posterior, self.config.kl_floor)
