"""The autoencoder: tokens → posterior → latent → tokens (paper §2)."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.autoencoder.block import compute_dtype, initializer
from calm_jax.autoencoder.decoder import Decoder
from calm_jax.autoencoder.encoder import Encoder
from calm_jax.autoencoder.posterior import Posterior
from calm_jax.config import AutoencoderConfig
from calm_jax.layers.activation import position_partition
from calm_jax.layers.linear import embedding
from calm_jax.layers.vocabulary import scored_ids
from calm_jax.losses import vocabulary


class Autoencoder(nn.Module):
  """Compresses each chunk alone; the decoder reads tokens by the embedding."""

  config: AutoencoderConfig

  def setup(self):
    config = self.config
    self.embedding = embedding(
      config.vocabulary.padded_size,
      config.hidden_size,
      dtype=compute_dtype(config),
      init=initializer(config),
    )
    self.encoder = Encoder(config)
    self.decoder = Decoder(config)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Logits, [..., K, V], of the mean latents of [..., K] ids."""
    return self.logits(self.encode(tokens).mean)

  def encode(
    self, tokens: jax.Array, is_masked: jax.Array | None = None
  ) -> Posterior:
    """Compresses each chunk, [..., K] ids, into one Gaussian over [..., Z].

    Args:
      tokens: [..., K] int32.
      is_masked: [..., K] bool, tokens replaced by the mask id; None: none.

    Returns:
      Mean and log standard deviation, [..., Z] float32.
    """
    chex.assert_axis_dimension(tokens, -1, self.config.chunk_size)
    if is_masked is not None:
      chex.assert_equal_shape([tokens, is_masked])
      tokens = jnp.where(is_masked, self.config.vocabulary.mask_id, tokens)
    return self.encoder(self.embedding(tokens))

  def decode_hidden(self, latents: jax.Array) -> jax.Array:
    """Maps latents, [..., Z], to hidden states, [..., K, E]."""
    chex.assert_axis_dimension(latents, -1, self.config.latent_size)
    return self.decoder(latents)

  def logits(self, latents: jax.Array) -> jax.Array:
    """h · embeddingᵀ for every stored id: [..., Z] → [..., K, V] float32."""
    return self.token_logits(self.decode_hidden(latents))

  def token_logits(self, hidden: jax.Array) -> jax.Array:
    """h · embeddingᵀ for every stored id: [..., K, E] → [..., K, V] float32."""
    return vocabulary.logits(
      hidden.astype(compute_dtype(self.config)), self.embedding.embedding
    )

  def scored_logits(self, latents: jax.Array) -> jax.Array:
    """`logits`, −inf for ids that are never predicted."""
    logits = self.logits(latents)
    scored = scored_ids(self.config.vocabulary)
    return jnp.where(jnp.broadcast_to(scored, logits.shape), logits, -jnp.inf)

  def cross_entropy(self, latents: jax.Array, labels: jax.Array) -> jax.Array:
    """−log p(label | latent) in nats: [..., Z], [..., K] ids → [..., K]."""
    return vocabulary.cross_entropy(
      self.decode_hidden(latents),
      self.embedding.embedding,
      labels,
      scored_ids(self.config.vocabulary),
      implementation=self.config.vocabulary_implementation,
      block_mib=self.config.vocabulary_block_mib,
    )

  def cross_entropy_sum(
    self, latents: jax.Array, labels: jax.Array, weights: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Σ weight · −log p(label | latent), the fastest to differentiate.

    Args:
      latents: [..., Z].
      labels: [..., K] ids.
      weights: [..., K] float32.

    Returns:
      The sum, [], and the nats of each token, [..., K], without gradient.
    """
    return self.token_cross_entropy_sum(
      self.decode_hidden(latents), labels, weights
    )

  def token_cross_entropy_sum(
    self, hidden: jax.Array, labels: jax.Array, weights: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The same, of hidden states that need not come from a latent.

    Args:
      hidden: [..., K, E], as the decoder's, of which tokens are read.
      labels: [..., K] ids.
      weights: [..., K] float32.

    Returns:
      As `cross_entropy_sum`.
    """
    return vocabulary.cross_entropy_sum(
      hidden.astype(compute_dtype(self.config)),
      self.embedding.embedding,
      labels,
      scored_ids(self.config.vocabulary),
      weights,
      implementation=self.config.vocabulary_implementation,
      block_mib=self.config.vocabulary_block_mib,
      partition=position_partition(),
    )

  def decode_tokens(self, latents: jax.Array) -> jax.Array:
    """The most likely ids: [..., Z] → [..., K] int32."""
    return self.read_tokens(self.spread(latents))

  def spread(self, latents: jax.Array) -> jax.Array:
    """Maps latents, [..., Z], to what each token is read from, [..., K, E]."""
    chex.assert_axis_dimension(latents, -1, self.config.latent_size)
    return self.decoder.spread(latents)

  def read_tokens(self, x: jax.Array) -> jax.Array:
    """The most likely ids of any of these vectors: [..., E] → [...] int32."""
    return vocabulary.argmax(
      self.decoder.refine(x),
      self.embedding.embedding,
      scored_ids(self.config.vocabulary),
      implementation=self.config.vocabulary_implementation,
      block_mib=self.config.vocabulary_block_mib,
    )
