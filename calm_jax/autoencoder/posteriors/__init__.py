"""Kinds of posteriors: one file each, and one line in `POSTERIORS`."""

from calm_jax.autoencoder.posterior import PosteriorKind
from calm_jax.autoencoder.posteriors.gaussian import GaussianPosterior
from calm_jax.config import AutoencoderConfig, GaussianPosteriorConfig

POSTERIORS: dict[type, type[PosteriorKind]] = {
  GaussianPosteriorConfig: GaussianPosterior,
}


def posterior_kind(config: AutoencoderConfig) -> PosteriorKind:
  """The kind that `config.posterior` describes."""
  return POSTERIORS[type(config.posterior)](config)
