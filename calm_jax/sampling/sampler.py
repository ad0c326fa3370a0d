"""What generation and scoring ask of a model, whichever kind it is."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax

from calm_jax.config import BackboneConfig
from calm_jax.model import Cache


class Sampler(Protocol):
  """A model with its parameters: contexts in, sampled chunks out.

  Built inside a compiled function. All methods are functions of arrays, and a
  draw depends on its hidden state, its key and its number alone.
  """

  config: BackboneConfig  # for the shape of a cache, and the vocabulary
  chunk_size: int  # K
  # The end id, if chunks are closed behind it; see `chunk_targets`.
  closing_id: int | None

  # None where there are no likelihoods. Maps hidden states [..., D] and labels
  # [...] to p(label) and Σ p², both [...] float32.
  probabilities: Callable[..., tuple[jax.Array, jax.Array]] | None
  # Texts are scored (`evaluation.candidates`) by more: where there are
  # likelihoods, `log_probabilities` as in `TokenSampler`; where there are none,
  # `draw_latents`, `decode`, `decoder_nats`, `encode` and `alpha` as in
  # `ChunkSampler`.

  def hidden(self, tokens: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Reads rows: [B, L, K] ids, [B, L] → [B, L, D]."""

  def read(self, tokens: jax.Array, segment_ids: jax.Array) -> tuple:
    """[B, L, K] ids → hidden states [B, L, D] and their context."""

  def branch(
    self, tokens: jax.Array, chunk_ids: jax.Array, context: Any
  ) -> jax.Array:
    """Hidden states after paths that leave their row.

    Args:
      tokens: [B, Q, J, K] int32, Q paths of J chunks for each row.
      chunk_ids: [B, Q] int32; the path follows the row's chunks 0 … chunk_id.
      context: of the rows, from `read`.

    Returns:
      [B, Q, D], after the last chunk of each path.
    """

  def step(
    self,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache,
    mask: jax.Array,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache]:
    """Goes on from a cache; see `NextVectorModel.step`."""

  def draw(
    self, hidden: jax.Array, keys: jax.Array, sample_ids: jax.Array
  ) -> jax.Array:
    """[..., D], [...], [S] → independent next chunks [..., S, K] int32."""


# Binds parameters to a sampler inside compiled functions. What compiled
# programs are kept by: those of `Binding` are compared by value.
SamplerFn = Callable[[Any], Sampler]


@dataclasses.dataclass(frozen=True)
class Binding:
  """A `SamplerFn` that is equal to any other of the same settings.

  Attributes:
    make: (params, *settings) → sampler.
    settings: hashed; a copy, so that nobody changes them.
  """

  make: Callable[..., Sampler]
  settings: tuple[Any, ...]

  def __post_init__(self):
    object.__setattr__(self, "settings", copy.deepcopy(self.settings))

  def __call__(self, params: Any) -> Sampler:
    return self.make(params, *self.settings)
