"""The same backbone as an ordinary token model, the baseline (§7.1)."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config import TokenModelConfig
from calm_jax.layers.activation import position_partition
from calm_jax.layers.linear import embedding
from calm_jax.layers.vocabulary import scored_ids
from calm_jax.losses import vocabulary
from calm_jax.model.backbone import Backbone, Cache


class TokenModel(nn.Module):
  """p(next token | tokens so far); input and output tables are untied."""

  config: TokenModelConfig

  def setup(self):
    config = self.config
    table = {
      "num_ids": config.vocabulary.padded_size,
      "size": config.hidden_size,
      "dtype": jnp.dtype(config.dtype),
      "init": nn.initializers.normal(config.init_std),
    }
    self.embedding = embedding(**table)
    self.backbone = Backbone(config)
    self.output = embedding(**table)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Logits, [B, L, V] float32, of the token after each of [B, L, 1]."""
    return self.logits(self.hidden(tokens))

  def hidden(
    self, tokens: jax.Array, segment_ids: jax.Array | None = None
  ) -> jax.Array:
    """Hidden states, [B, L, D], of rows of one-token chunks, [B, L, 1]."""
    chex.assert_shape(tokens, (None, None, 1))
    return self.backbone(self.embedding(tokens[..., 0]), None, segment_ids)[0]

  def step(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    mask: jax.Array,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    """Goes on from a cache; see `NextVectorModel.step`."""
    x = self.embedding(tokens[..., 0])
    return self.backbone(x, positions, cache=cache, mask=mask, slot=slot)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """[..., D] → [..., V] float32; ids that are never predicted get −∞."""
    logits = vocabulary.logits(hidden, self.output.embedding)
    scored = scored_ids(self.config.vocabulary)
    shape = (1,) * (logits.ndim - 1) + (-1,)
    return jnp.where(scored.reshape(shape), logits, -jnp.inf)

  def cross_entropy_sum(
    self, hidden: jax.Array, labels: jax.Array, weights: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Σ weight · −log p(label), the fastest to differentiate.

    Args:
      hidden: [..., D].
      labels: [...] ids.
      weights: [...] float32.

    Returns:
      The sum, [], and the nats of each token, [...], without gradient.
    """
    return vocabulary.cross_entropy_sum(
      hidden,
      self.output.embedding,
      labels,
      scored_ids(self.config.vocabulary),
      weights,
      implementation=self.config.vocabulary_implementation,
      block_mib=self.config.vocabulary_block_mib,
      partition=position_partition(),
    )

  def cross_entropy(self, hidden: jax.Array, labels: jax.Array) -> jax.Array:
    """−log p(label) in nats: [..., D], [...] ids → [...] float32."""
    return vocabulary.cross_entropy(
      hidden,
      self.output.embedding,
      labels,
      scored_ids(self.config.vocabulary),
      implementation=self.config.vocabulary_implementation,
      block_mib=self.config.vocabulary_block_mib,
    )
