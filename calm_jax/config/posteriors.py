"""What stands for a chunk in latent space.

The settings of every posterior, and the table of them.
"""

from typing import ClassVar

from calm_jax.config.fields import check_positive, config_class


@config_class
class PosteriorConfig:
  """What all posteriors have."""

  kinds: ClassVar[dict[str, type["PosteriorConfig"]]]  # by name, see below
  kind: ClassVar[str]
  # Fields of AutoencoderConfig that it does not read: they keep their defaults.
  unused: ClassVar[tuple[str, ...]] = ()


@config_class
class GaussianPosteriorConfig(PosteriorConfig):
  """A mean and a standard deviation for each dimension (paper §2.2)."""

  kind: ClassVar[str] = "gaussian"


@config_class
class UnitRmsPosteriorConfig(PosteriorConfig):
  """Means on a sphere, and a standard deviation that nobody learns."""

  kind: ClassVar[str] = "unit_rms"
  unused: ClassVar[tuple[str, ...]] = ("kl_weight", "kl_floor")
  std: float = 0.3  # of every dimension, where the mean's RMS is 1
  # Draws one for each chunk from N(0, std²), in training; else it is fixed.
  is_std_drawn: bool = False

  def __post_init__(self):
    check_positive(self, "std")


@config_class
class SigmaVaePosteriorConfig(PosteriorConfig):
  """σ-VAE: a standard deviation drawn, not learned (arXiv:2412.08635, §2.2)."""

  kind: ClassVar[str] = "sigma_vae"
  unused: ClassVar[tuple[str, ...]] = ("kl_floor",)
  std: float = 0.5  # of the draws: each chunk's is from N(0, std²), in training

  def __post_init__(self):
    check_positive(self, "std")


PosteriorConfig.kinds = {
  posterior.kind: posterior
  for posterior in (
    GaussianPosteriorConfig,
    UnitRmsPosteriorConfig,
    SigmaVaePosteriorConfig,
  )
}
