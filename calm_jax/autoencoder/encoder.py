"""Embedded tokens of a chunk to the Gaussian over its latent."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.autoencoder.block import Block, compute_dtype, initializer
from calm_jax.autoencoder.posterior import Posterior
from calm_jax.autoencoder.posteriors import posterior_kind
from calm_jax.config import AutoencoderConfig
from calm_jax.layers.linear import linear
from calm_jax.layers.norm import RMSNorm
from calm_jax.layers.remat import remat


class Encoder(nn.Module):
  """Blocks on tokens, squeeze, blocks on the chunk, posterior."""

  config: AutoencoderConfig

  def setup(self):
    config = self.config
    block = remat(Block, config.remat)
    half = config.num_encoder_layers // 2
    options = {"init": initializer(config), "use_bias": True}
    self.token_blocks = [block(config) for _ in range(half)]
    self.squeeze = linear(
      config.hidden_size,
      ("chunk_mlp", "embed"),
      dtype=compute_dtype(config),
      **options,
    )
    self.chunk_blocks = [block(config) for _ in range(half)]
    self.norm = RMSNorm(config.norm_epsilon)
    self.posterior = linear(
      posterior_kind(config).num_outputs(config.latent_size),
      ("embed", "latent"),
      dtype=jnp.float32,
      **options,
    )

  def __call__(self, x: jax.Array) -> Posterior:
    """Maps embeddings, [..., K, E], to a posterior over [..., Z]."""
    for block in self.token_blocks:
      x = block(x)
    x = self.squeeze(x.reshape(*x.shape[:-2], -1))  # [..., E]
    for block in self.chunk_blocks:
      x = block(x)
    return posterior_kind(self.config).read(self.posterior(self.norm(x)))
