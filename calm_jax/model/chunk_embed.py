"""What the backbone sees of a chunk."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config import NextVectorConfig
from calm_jax.layers.linear import embedding, linear
from calm_jax.layers.norm import LayerNorm
from calm_jax.layers.silu import silu


class ChunkEmbed(nn.Module):
  """Token ids, the latent, or both, to one vector (paper §3.3, Table 5).

  tokens: LN( W₂ · SiLU( W₁ · [e₁; …; e_K] ) ); latent: W · z; both: the sum.
  """

  config: NextVectorConfig

  @nn.compact
  def __call__(
    self, tokens: jax.Array, latents: jax.Array | None = None
  ) -> jax.Array:
    """Embeds each chunk.

    Args:
      tokens: [B, L, K] int32.
      latents: [B, L, Z] posterior means; needed unless inputs are tokens.

    Returns:
      [B, L, D].
    """
    config = self.config
    size = config.hidden_size
    options = {
      "dtype": jnp.dtype(config.dtype),
      "init": nn.initializers.normal(config.init_std),
    }
    x = jnp.zeros((*tokens.shape[:2], size), config.dtype)
    if config.inputs != "latent":
      chex.assert_shape(tokens, (None, None, config.chunk_size))
      num_ids = config.vocabulary.padded_size
      table = embedding(num_ids, size, name="embedding", **options)
      options["use_bias"] = True
      inner = linear(2 * size, ("chunk_embed", "mlp"), name="inner", **options)
      outer = linear(size, ("mlp", "embed"), name="outer", **options)
      joined = table(tokens).reshape(*tokens.shape[:2], -1)  # [B, L, K·D]
      x = LayerNorm(name="norm")(outer(silu(inner(joined))))
    if config.inputs != "tokens":
      chex.assert_shape(latents, (*tokens.shape[:2], config.latent_size))
      options["use_bias"] = True
      project = linear(size, ("latent", "embed"), name="latent", **options)
      x = x + project(latents)
    return x
