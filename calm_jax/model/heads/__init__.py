"""Heads: how a hidden state becomes a distribution over the next latent.

A head is one file with one `Head`, and one line in `HEADS`.
"""

from calm_jax.config import NextVectorConfig
from calm_jax.config import heads as configs
from calm_jax.layers.remat import remat
from calm_jax.model.heads.diffusion import DiffusionHead
from calm_jax.model.heads.energy import EnergyHead
from calm_jax.model.heads.flow import FlowHead
from calm_jax.model.heads.flow_map import FlowMapHead
from calm_jax.model.heads.head import Head, HeadLoss
from calm_jax.model.heads.mixture import MixtureHead

HEADS: dict[type, type[Head]] = {
  configs.EnergyHeadConfig: EnergyHead,
  configs.DiffusionHeadConfig: DiffusionHead,
  configs.FlowHeadConfig: FlowHead,
  configs.MixtureHeadConfig: MixtureHead,
  configs.FlowMapHeadConfig: FlowMapHead,
}


def build_head(config: NextVectorConfig) -> Head:
  """The head that `config.head` describes.

  Raises:
    ValueError: if there is none.
  """
  if type(config.head) not in HEADS:
    raise ValueError(
      f"a head of kind {config.head.kind!r} has no module; give it a line in"
      " HEADS."
    )
  return remat(HEADS[type(config.head)], config.remat)(
    config=config.head,
    hidden_size=config.hidden_size,
    latent_size=config.latent_size,
    dtype=config.dtype,
    init_std=config.init_std,
  )


__all__ = [
  "HEADS",
  "DiffusionHead",
  "EnergyHead",
  "FlowHead",
  "Head",
  "HeadLoss",
  "build_head",
]
