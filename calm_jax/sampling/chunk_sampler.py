"""A next-vector model as generation and evaluation see it."""

import functools
from typing import Any

import jax

from calm_jax.autoencoder import Autoencoder
from calm_jax.config import AutoencoderConfig, NextVectorConfig
from calm_jax.data.batch import close
from calm_jax.model import Cache, NextVectorModel
from calm_jax.model.heads import build_head
from calm_jax.sampling.blocks import map_blocks
from calm_jax.sampling.compared import read_compared
from calm_jax.sampling.context import (
  Context,
  branch_positions,
  read_positions,
)

# Tokens whose hidden states and block of logits exist at once: with blocks of
# 8192 words, 128 MiB.
_MAX_TOKENS = 4096


class ChunkSampler:
  """Contexts in, sampled chunks out; built inside a compiled function.

  Attributes:
    chunk_size: K.
    probabilities: None; there are none.
    closing_id: the end id, if what is decoded behind it in its chunk is
      replaced by end ids; see `chunk_targets`.
    alpha: exponent of the energy score that its latents are scored with.
  """

  probabilities = None

  def __init__(
    self,
    config: NextVectorConfig,
    autoencoder_config: AutoencoderConfig,
    params: Any,
    autoencoder_params: Any,
    *,
    noise_scale: float | jax.Array = 1.0,
    closing_id: int | None = None,
  ):
    """Binds parameters.

    Args:
      config: resolved.
      autoencoder_config: of the frozen autoencoder.
      params: of the model.
      autoencoder_params: frozen.
      noise_scale: factor on the head's noise.
      closing_id: see the class.
    """
    self.config = config
    self.chunk_size = config.chunk_size
    self.closing_id = closing_id
    self._noise_scale = noise_scale
    self._model = functools.partial(
      NextVectorModel(config).apply, {"params": params}
    )
    self.alpha = build_head(config).alpha
    self._autoencoder = functools.partial(
      Autoencoder(autoencoder_config).apply, {"params": autoencoder_params}
    )

  def hidden(self, tokens: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Reads rows: [B, L, K] ids, [B, L] → [B, L, D]."""
    return self._model(
      tokens, self._inputs(tokens), segment_ids, method="hidden"
    )

  def read(
    self, tokens: jax.Array, segment_ids: jax.Array
  ) -> tuple[jax.Array, Context]:
    """Reads rows and remembers them, to go on or to `branch` from."""
    positions, cache, mask = read_positions(self.config, segment_ids)
    hidden, cache = self.step(tokens, positions, cache, mask)
    return hidden, Context(cache, segment_ids)

  def branch(
    self, tokens: jax.Array, chunk_ids: jax.Array, context: Context
  ) -> jax.Array:
    """Hidden states after paths that leave their rows.

    Args:
      tokens: [B, Q, J, K] int32, Q paths of J chunks for each row.
      chunk_ids: [B, Q] int32; a path follows its row's chunks 0 … chunk_id.
      context: of the rows.

    Returns:
      [B, Q, D], after the last chunk of each path.
    """
    rows, num_paths, num_chunks, size = tokens.shape
    positions, mask = branch_positions(
      self.config, chunk_ids, num_chunks, context.segment_ids
    )
    tokens = tokens.reshape(rows, -1, size)
    hidden, _ = self.step(tokens, positions, context.cache, mask)
    return hidden.reshape(rows, num_paths, num_chunks, -1)[:, :, -1]

  def step(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    mask: jax.Array,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    """Goes on from a cache; see `NextVectorModel.step`."""
    inputs = self._inputs(tokens)
    return self._model(
      tokens, positions, cache, mask, inputs, slot, method="step"
    )

  def draw_latents(
    self, hidden: jax.Array, keys: jax.Array, sample_ids: jax.Array
  ) -> jax.Array:
    """[..., D] and typed keys [...] → latents [..., n, Z] float32."""
    return map_blocks(
      lambda block: self._model(
        *block, sample_ids, self._noise_scale, method="sample"
      ),
      self._block_size(len(sample_ids)),
      (hidden, keys),
      num_axes=keys.ndim,
    )

  def decode(self, latents: jax.Array) -> jax.Array:
    """[..., Z] → the most likely ids [..., K] int32."""
    tokens = map_blocks(
      functools.partial(self._autoencoder, method="decode_tokens"),
      self._block_size(1),
      latents,
      num_axes=latents.ndim - 1,
    )
    return close(tokens, self.closing_id)

  def decode_compared(
    self, latents: jax.Array, labels: jax.Array, num_tokens: int
  ) -> jax.Array:
    """Decodes no more than scores of prefixes look at; see `read_compared`.

    Args:
      latents: [..., S, Z], samples of a chunk.
      labels: [..., K] int32, its true ids.
      num_tokens: of a chunk that are compared, at most K.

    Returns:
      [..., S, K] int32.
    """

    def call(block):
      latents, labels = block
      return read_compared(
        functools.partial(self._autoencoder, method="read_tokens"),
        self._autoencoder(latents, method="spread"),
        labels,
        num_tokens=num_tokens,
        closing_id=self.closing_id,
      )

    return map_blocks(
      call,
      self._block_size(latents.shape[-2]),
      (latents, labels),
      num_axes=labels.ndim - 1,
    )

  def decoder_nats(self, latents: jax.Array, tokens: jax.Array) -> jax.Array:
    """−log p(token | latent): [..., Z] and [..., K] ids → [..., K] float32."""
    return map_blocks(
      lambda block: self._autoencoder(*block, method="cross_entropy"),
      self._block_size(1),
      (latents, tokens),
      num_axes=latents.ndim - 1,
    )

  def draw(
    self, hidden: jax.Array, keys: jax.Array, sample_ids: jax.Array
  ) -> jax.Array:
    """Draws next chunks.

    Args:
      hidden: [..., D].
      keys: [...] typed keys of the positions.
      sample_ids: [n] uint32.

    Returns:
      [..., n, K] int32, independent; a draw depends on its hidden state, key
      and id alone.
    """

    def call(block):
      latents = self._model(
        *block, sample_ids, self._noise_scale, method="sample"
      )
      return self.decode(latents)

    return map_blocks(
      call,
      self._block_size(len(sample_ids)),
      (hidden, keys),
      num_axes=keys.ndim,
    )

  def encode(self, tokens: jax.Array):
    """The posterior of each chunk: [..., K] ids → mean and log_std [..., Z]."""
    return self._autoencoder(tokens, method="encode")

  def _inputs(self, tokens: jax.Array) -> jax.Array | None:
    if self.config.inputs == "tokens":
      return None
    return self.encode(tokens).mean

  def _block_size(self, num_samples: int) -> int:
    return max(1, _MAX_TOKENS // (num_samples * self.chunk_size))
