"""A token model as generation and evaluation see it: chunks of one token."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from calm_jax.config import TokenModelConfig
from calm_jax.model import Cache, TokenModel
from calm_jax.randomness import sample_keys
from calm_jax.sampling.blocks import map_blocks
from calm_jax.sampling.context import (
  Context,
  branch_positions,
  read_positions,
)

_MAX_LOGITS = 1 << 25  # that exist at once: 128 MiB


class TokenSampler:
  """Contexts in, sampled tokens out; built inside a compiled function.

  Attributes:
    chunk_size: 1.
    closing_id: None; behind an end id its chunk has no room.
  """

  chunk_size = 1
  closing_id = None

  def __init__(
    self,
    config: TokenModelConfig,
    params: Any,
    *,
    temperature: float | jax.Array = 1.0,
    top_k: int = 0,
    top_p: float | jax.Array = 1.0,
  ):
    """Binds parameters.

    Args:
      config: resolved.
      params: of the model.
      temperature: divides the logits.
      top_k: only the k most likely tokens; 0: all.
      top_p: only the most likely tokens that together have probability p.
    """
    self.config = config
    self._temperature = temperature
    self._top_k = top_k
    self._top_p = top_p
    self._model = functools.partial(
      TokenModel(config).apply, {"params": params}
    )

  def hidden(self, tokens: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Reads rows: [B, L, 1] ids, [B, L] → [B, L, D]."""
    return self._model(tokens, segment_ids, method="hidden")

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
    """Hidden states after paths; see `ChunkSampler.branch`."""
    rows, num_paths, length, _ = tokens.shape
    positions, mask = branch_positions(
      self.config, chunk_ids, length, context.segment_ids
    )
    tokens = tokens.reshape(rows, -1, 1)
    hidden, _ = self.step(tokens, positions, context.cache, mask)
    return hidden.reshape(rows, num_paths, length, -1)[:, :, -1]

  def step(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    mask: jax.Array,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    """Goes on from a cache; see `NextVectorModel.step`."""
    return self._model(tokens, positions, cache, mask, slot, method="step")

  def draw(
    self, hidden: jax.Array, keys: jax.Array, sample_ids: jax.Array
  ) -> jax.Array:
    """Draws next tokens: [..., D], [...], [n] → [..., n, 1] int32."""

    def call(block):
      hidden, keys = block
      # One uniform number a draw, placed in the distribution function.
      edges = _edges(self._distribution(hidden))  # [P, V]
      flat = sample_keys(keys, sample_ids)  # [P, n]
      uniform = jax.vmap(jax.random.uniform)(flat.reshape(-1))
      heights = uniform.reshape(flat.shape) * edges[:, -1:]
      search = jax.vmap(functools.partial(jnp.searchsorted, side="right"))
      return search(edges, heights).astype(jnp.int32)[..., None]

    return self._map(call, (hidden, keys), keys.ndim)

  def probabilities(
    self, hidden: jax.Array, labels: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """p(label) and Σ_v p(v)²: [..., D], [...] ids → two [...] float32."""

    def call(block):
      hidden, labels = block
      p = self._distribution(hidden)
      right = jnp.take_along_axis(p, labels[:, None], axis=-1)[:, 0]
      return right, jnp.sum(jnp.square(p), axis=-1)

    return self._map(call, (hidden, labels), labels.ndim)

  def log_probabilities(
    self, hidden: jax.Array, labels: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """log p(label), also where p is no float32, and whether none is larger.

    Args:
      hidden: [..., D].
      labels: [...] ids.

    Returns:
      [...] float32 and [...] bool, at the temperature, without top_k and top_p.
    """

    def call(block):
      hidden, labels = block
      logits = self._model(hidden, method="logits") / self._temperature
      right = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
      is_top = right >= jnp.max(logits, axis=-1)
      return right - jax.nn.logsumexp(logits, axis=-1), is_top

    return self._map(call, (hidden, labels), labels.ndim)

  def _distribution(self, hidden: jax.Array) -> jax.Array:
    """What is sampled from: [P, D] → [P, V] float32."""
    logits = self._model(hidden, method="logits") / self._temperature
    if self._top_k:
      kept = jax.lax.top_k(logits, min(self._top_k, logits.shape[-1]))[0]
      logits = jnp.where(logits >= kept[:, -1:], logits, -jnp.inf)
    p = jax.nn.softmax(logits, axis=-1)

    def cut(p: jax.Array) -> jax.Array:
      ranked = jnp.sort(p, axis=-1, descending=True)
      # A token stays if those more likely than it do not reach top_p yet.
      is_kept = jnp.cumsum(ranked, axis=-1) - ranked < self._top_p
      least = jnp.min(jnp.where(is_kept, ranked, 1.0), axis=-1, keepdims=True)
      p = jnp.where(p >= least, p, 0.0)
      return p / jnp.sum(p, axis=-1, keepdims=True)

    # Sums in float32 reach 1 before the last token: 1 means no cut.
    return jax.lax.cond(self._top_p < 1, cut, lambda p: p, p)

  def _map(self, call, arrays, num_axes):
    size = max(1, _MAX_LOGITS // self.config.vocabulary.padded_size)
    return map_blocks(call, size, arrays, num_axes=num_axes)


def _edges(p: jax.Array) -> jax.Array:
  """The distribution function, [P, V]: it rises at tokens that can be drawn.

  A cumulative sum in float32 is computed in pieces, and may fall, or rise by a
  rounding at a token of probability 0.
  """
  edges = jnp.where(p > 0, jnp.cumsum(p, axis=-1), 0.0)
  return jax.lax.cummax(edges, axis=1)
