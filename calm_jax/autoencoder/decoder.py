"""A latent to the hidden states from which its tokens are read."""

import jax
from flax import linen as nn

from calm_jax.autoencoder.block import Block, compute_dtype, initializer
from calm_jax.config import AutoencoderConfig
from calm_jax.layers.linear import linear
from calm_jax.layers.norm import RMSNorm
from calm_jax.layers.remat import remat


class Decoder(nn.Module):
  """Blocks on the chunk, expand, blocks on tokens, norm."""

  config: AutoencoderConfig

  def setup(self):
    config = self.config
    block = remat(Block, config.remat)
    half = config.num_decoder_layers // 2
    options = {
      "dtype": compute_dtype(config),
      "init": initializer(config),
      "use_bias": True,
    }
    self.from_latent = linear(
      config.hidden_size, ("latent", "embed"), **options
    )
    self.chunk_blocks = [block(config) for _ in range(half)]
    self.expand = linear(
      config.chunk_size * config.hidden_size,
      ("embed", "chunk_mlp"),
      **options,
    )
    self.token_blocks = [block(config) for _ in range(half)]
    self.norm = RMSNorm(config.norm_epsilon)

  def __call__(self, latents: jax.Array) -> jax.Array:
    """Maps latents, [..., Z], to hidden states, [..., K, E]."""
    return self.refine(self.spread(latents))

  def spread(self, latents: jax.Array) -> jax.Array:
    """The part on the chunk: [..., Z] → a vector a token, [..., K, E]."""
    config = self.config
    x = self.from_latent(latents)
    for block in self.chunk_blocks:
      x = block(x)
    x = self.expand(x)
    return x.reshape(*x.shape[:-1], config.chunk_size, config.hidden_size)

  def refine(self, x: jax.Array) -> jax.Array:
    """The part on each token alone: [..., E] → hidden states, [..., E]."""
    for block in self.token_blocks:
      x = block(x)
    return self.norm(x)
