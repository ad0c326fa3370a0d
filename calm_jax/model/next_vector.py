"""The model that predicts the latent of the next chunk (paper §3)."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config import NextVectorConfig
from calm_jax.layers.linear import linear
from calm_jax.layers.remat import remat
from calm_jax.model.backbone import Backbone, Cache
from calm_jax.model.chunk_embed import ChunkEmbed
from calm_jax.model.heads import HeadLoss, build_head


class NextVectorModel(nn.Module):
  """Chunks → hidden states; a head turns h_i into the latent of chunk i+1."""

  config: NextVectorConfig

  def setup(self):
    config = self.config
    self.chunk_embed = remat(ChunkEmbed, config.remat)(config)
    self.backbone = Backbone(config)
    self.head = build_head(config)
    if config.auxiliary_weight:
      self.auxiliary = linear(
        config.chunk_size * config.auxiliary_size,
        ("embed", "mlp"),
        dtype=jnp.float32,
        init=nn.initializers.normal(config.init_std),
        use_bias=True,
      )

  def __call__(
    self, tokens: jax.Array, keys: jax.Array, latents: jax.Array | None = None
  ) -> jax.Array:
    """One sampled latent after every chunk: [B, L, K] ids → [B, L, 1, Z]."""
    hidden = self.hidden(tokens, latents)
    if self.config.auxiliary_weight and self.is_initializing():
      self.token_hidden(hidden)  # no sample needs it, but its loss does
    return self.sample(hidden, keys, jnp.zeros(1, "uint32"))

  def hidden(
    self,
    tokens: jax.Array,
    latents: jax.Array | None = None,
    segment_ids: jax.Array | None = None,
  ) -> jax.Array:
    """Reads whole rows.

    Args:
      tokens: [B, L, K] int32.
      latents: [B, L, Z], posterior means; needed unless inputs are tokens.
      segment_ids: [B, L] int32, read only with `use_segment_mask`.

    Returns:
      [B, L, D]; entry i has seen the chunks 0 … i.
    """
    x = self.chunk_embed(tokens, latents)
    return self.backbone(x, None, segment_ids)[0]

  def step(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    mask: jax.Array,
    latents: jax.Array | None = None,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    """Goes on from a cache, by one chunk or several.

    Args:
      tokens: [B, L, K] int32.
      positions: [B, L] int32, the chunks' indices in their rows.
      cache: of the chunks before these.
      mask: [B, L, S+L] bool, which of the cache's S slots and of these chunks
        each one sees.
      latents: [B, L, Z]; needed unless inputs are tokens.
      slot: where in the cache they are written; see `Backbone`.

    Returns:
      Hidden states, [B, L, D], and the cache with these chunks in it.
    """
    x = self.chunk_embed(tokens, latents)
    return self.backbone(x, positions, cache=cache, mask=mask, slot=slot)

  def loss(
    self,
    hidden: jax.Array,
    mean: jax.Array,
    log_std: jax.Array,
    keys: jax.Array,
  ) -> HeadLoss:
    """The loss against the chunk that each h_i predicts; see `Head.loss`."""
    chex.assert_equal_shape([mean, log_std])
    chex.assert_equal_shape_prefix([hidden, mean, keys], 2)
    mean, log_std = jax.lax.stop_gradient((mean, log_std))
    return self.head.loss(hidden, mean, log_std, keys)

  def token_hidden(self, hidden: jax.Array) -> jax.Array:
    """What the auxiliary loss reads the next chunk's tokens from.

    Only models with an `auxiliary_weight` have it.

    Args:
      hidden: [B, L, D].

    Returns:
      [B, L, K, E] float32, one vector for each token of the chunk after h_i,
      to be multiplied by the autoencoder's embedding.
    """
    x = self.auxiliary(hidden)  # [B, L, K·E]
    config = self.config
    return x.reshape(
      *hidden.shape[:-1], config.chunk_size, config.auxiliary_size
    )

  def sample(
    self,
    hidden: jax.Array,
    keys: jax.Array,
    sample_ids: jax.Array,
    noise_scale: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Draws latents of the next chunk; see `Head.sample`."""
    return self.head.sample(hidden, keys, sample_ids, noise_scale)
