"""K tokens to one Gaussian latent and back (paper §2)."""

from calm_jax.autoencoder.autoencoder import Autoencoder
from calm_jax.autoencoder.posterior import Posterior

__all__ = ["Autoencoder", "Posterior"]
