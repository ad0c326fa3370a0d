"""What stands for a chunk in latent space.

The settings of every posterior, and the table of them.
"""

from typing import ClassVar

from calm_jax.config.fields import config_class


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


PosteriorConfig.kinds = {
  posterior.kind: posterior for posterior in (GaussianPosteriorConfig,)
}
