"""A next-vector model that drafts from any token of a text."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.model import Cache, empty_cache
from calm_jax.sampling.chunk_sampler import ChunkSampler
from calm_jax.sampling.context import write_slots
from calm_jax.sampling.sampler import SamplerFn
from calm_jax.sampling.settings import check_noise_scale

ALIGNMENTS = ("fill", "overlap")


@dataclasses.dataclass(kw_only=True, frozen=True)
class DraftSettings:
  """How to draft; none of it changes what is written."""

  num_drafts: int = 4  # S, chunks drawn for each verification
  num_nodes: int = 0  # prefixes of them that are verified; 0: all
  noise_scale: float = 1.0  # factor on the head's noise
  alignment: str = "fill"  # fill | overlap, see `Drafter`

  def __post_init__(self):
    if self.num_drafts < 1:
      raise ValueError(
        f"num_drafts is {self.num_drafts}; at least 1 chunk is drafted for each"
        " verification (leave out the drafter to decode plainly)."
      )
    if self.num_nodes < 0:
      raise ValueError(
        f"num_nodes is {self.num_nodes}; it is 0 (all drafted prefixes) or"
        " positive."
      )
    check_noise_scale("the drafter's noise_scale", self.noise_scale)
    if self.alignment not in ALIGNMENTS:
      raise ValueError(
        f"alignment is {self.alignment!r}; choose one of"
        f" {', '.join(ALIGNMENTS)}."
      )


class Texts(NamedTuple):
  """R texts under way, with K − 1 end ids in front of each.

  A token's place counts from the begin id, which is 0; its column is K − 1
  more.
  """

  tokens: jax.Array  # [R, K − 1 + N] int32
  length: jax.Array  # [R] int32, tokens of each


class Drafter:
  """Chunks that may follow a text, which may end anywhere.

  The last K tokens are a chunk wherever the text ends. `fill` lets that chunk
  see the K tokens before it, the K before those and so on to a first chunk that
  is filled on the left, as prompts are: just what the model would see had it
  been given the text as a prompt. Each of the K ways to cut a text is needed
  sooner or later, so a chunk is read for every token, in a cache with a slot
  for every token, of which a chunk sees every K-th.

  `overlap` keeps the cut of the prompt: the last K tokens see its whole chunks,
  so that up to K − 1 tokens are read twice. Only one chunk in K stays in the
  context, but models are not trained so.

  Attributes:
    num_drafts: S.
    chunk_size: K.
  """

  def __init__(self, sampler: ChunkSampler, num_drafts: int, alignment: str):
    self.num_drafts = num_drafts
    self.chunk_size = sampler.chunk_size
    self._sampler = sampler
    self._alignment = alignment

  def start(self, texts: Texts) -> tuple[Cache, jax.Array]:
    """Reads prompts.

    Args:
      texts: one prompt each.

    Returns:
      A cache, and the cut of each text that is kept, [R] from 0 to K − 1.
    """
    num_rows, width = texts.tokens.shape
    num_slots = width - self.chunk_size + 1
    cut = (texts.length - 1) % self.chunk_size
    # What stands behind a text is read too, and overwritten before it is seen.
    places = jnp.broadcast_to(jnp.arange(num_slots), (num_rows, num_slots))
    cache = empty_cache(self._sampler.config, num_rows, 0)
    mask = self._sees(places, places, cut)
    _, cache = self._read(texts, places, cut, cache, mask)
    return cache, cut

  def draft(
    self,
    texts: Texts,
    cut: jax.Array,
    cache: Cache,
    num_read: jax.Array,
    keys: jax.Array,
  ) -> tuple[jax.Array, Cache]:
    """Reads what is new of texts and drafts what may follow.

    Args:
      texts: as they stand.
      cut: of `start`.
      cache: of the chunks that end at the places 0 … num_read − 1; given up.
      num_read: [R] int32, from length − K − 1 to length − 1.
      keys: [R] typed keys.

    Returns:
      Drafts [R, S, K] int32, and the cache up to the texts' ends.
    """
    num_slots = cache.key.shape[-1]
    ahead = jnp.arange(self.chunk_size + 1)
    places = num_read[:, None] + ahead[None]  # [R, K+1]
    slots = jnp.broadcast_to(jnp.arange(num_slots), (len(places), num_slots))
    mask = self._sees(places, slots, cut)
    mask &= (slots < num_read[:, None])[:, None]
    mask = jnp.concatenate([mask, self._sees(places, places, cut)], axis=-1)
    hidden, longer = self._read(texts, places, cut, cache, mask)
    new = jax.tree.map(lambda x: x[..., num_slots:], longer)
    cache = write_slots(cache, new, num_read)
    last = hidden[jnp.arange(len(places)), texts.length - 1 - num_read]
    ids = jnp.arange(self.num_drafts, dtype=jnp.uint32)
    return self._sampler.draw(last, keys, ids), cache

  def _read(
    self,
    texts: Texts,
    places: jax.Array,
    cut: jax.Array,
    cache: Cache,
    mask: jax.Array,
  ) -> tuple[jax.Array, Cache]:
    """Reads the chunks that end at places, [R, L]."""
    columns = places[..., None] + jnp.arange(self.chunk_size)[None, None]
    chunks = jax.vmap(lambda row, index: row[index])(texts.tokens, columns)
    index = places // self.chunk_size
    if self._alignment == "overlap":
      # So many chunks of the kept cut end before a place.
      index = -(-(places - cut[:, None]) // self.chunk_size)
      index = jnp.maximum(index, 0)
    return self._sampler.step(chunks, index, cache, mask)

  def _sees(
    self, places: jax.Array, others: jax.Array, cut: jax.Array
  ) -> jax.Array:
    """Which chunks, by their ends, see others: [R, L], [R, M] → [R, L, M]."""
    places, others = places[:, :, None], others[:, None]
    if self._alignment == "overlap":
      is_kept = others % self.chunk_size == cut[:, None, None]
      return (is_kept & (others < places)) | (others == places)
    return (others <= places) & ((places - others) % self.chunk_size == 0)


def make_drafter(
  params: Any, sampler_fn: SamplerFn, num_drafts: int, alignment: str
) -> Drafter:
  """Binds parameters, inside a compiled function; see `Binding`."""
  return Drafter(sampler_fn(params), num_drafts, alignment)
