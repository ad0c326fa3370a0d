"""The Gaussian that stands for a chunk, and what a kind of it decides."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.config import AutoencoderConfig


class Posterior(NamedTuple):
  """N(mean, exp(log_std)²), one for each chunk; float32."""

  mean: jax.Array  # [..., Z]
  log_std: jax.Array  # [..., Z]

  def sample(self, noise: jax.Array) -> jax.Array:
    """mean + std · ε for standard normal noise, [..., Z]."""
    return self.mean + jnp.exp(self.log_std) * noise


class PosteriorKind:
  """How the encoder's outputs become a posterior, and what that costs.

  One file of `posteriors/` a kind, and a line in `POSTERIORS`. Functions of
  arrays: a kind has settings and no parameters.
  """

  def __init__(self, config: AutoencoderConfig):
    """Takes the settings, `config.posterior` and what stands beside it."""
    self.config = config

  def num_outputs(self, latent_size: int) -> int:
    """Numbers that the encoder gives for each chunk."""
    raise NotImplementedError

  def read(self, outputs: jax.Array) -> Posterior:
    """Outputs, [..., n] float32, to what everything but training takes.

    Returns:
      [..., Z] float32 each.
    """
    raise NotImplementedError

  def draw(
    self, posterior: Posterior, noise: jax.Array, keys: jax.Array
  ) -> jax.Array:
    """The latent that training decodes.

    Args:
      posterior: as read.
      noise: ε, [..., Z], standard normal.
      keys: [...] typed keys, for what else is drawn.

    Returns:
      [..., Z] float32.
    """
    del keys
    return posterior.sample(noise)

  def penalty(self, posterior: Posterior) -> jax.Array:
    """What `kl_weight` times is added to the loss: [...] float32, nats."""
    raise NotImplementedError
