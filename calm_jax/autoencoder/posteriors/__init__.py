"""Kinds of posteriors: one file each, and one line in `POSTERIORS`."""

from calm_jax.autoencoder.posterior import PosteriorKind
from calm_jax.autoencoder.posteriors.gaussian import GaussianPosterior
from calm_jax.autoencoder.posteriors.sigma_vae import SigmaVaePosterior
from calm_jax.autoencoder.posteriors.unit_rms import UnitRmsPosterior
from calm_jax.config import AutoencoderConfig
from calm_jax.config import posteriors as configs

POSTERIORS: dict[type, type[PosteriorKind]] = {
  configs.GaussianPosteriorConfig: GaussianPosterior,
  configs.UnitRmsPosteriorConfig: UnitRmsPosterior,
  configs.SigmaVaePosteriorConfig: SigmaVaePosterior,
}


def posterior_kind(config: AutoencoderConfig) -> PosteriorKind:
  """The kind that `config.posterior` describes.

  Raises:
    ValueError: if there is none.
  """
  if type(config.posterior) not in POSTERIORS:
    raise ValueError(
      f"a posterior of kind {config.posterior.kind!r} has no functions; give it"
      " a line in POSTERIORS."
    )
  return POSTERIORS[type(config.posterior)](config)
