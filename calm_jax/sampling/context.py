"""Rows that were read, and paths that leave them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.config import BackboneConfig
from calm_jax.model import Cache, empty_cache


class Context(NamedTuple):
  """Keys, values and documents of rows that were read whole."""

  cache: Cache  # L slots a row
  segment_ids: jax.Array  # [B, L] int32


def read_positions(
  config: BackboneConfig, segment_ids: jax.Array
) -> tuple[jax.Array, Cache, jax.Array]:
  """What reading whole rows from an empty cache takes.

  Args:
    config: of the backbone.
    segment_ids: [B, L] int32.

  Returns:
    Positions [B, L], a cache without slots, and the mask [B, L, L].
  """
  rows, length = segment_ids.shape
  positions = jnp.broadcast_to(jnp.arange(length)[None], (rows, length))
  mask = jnp.tril(jnp.ones((length, length), bool))[None]
  mask = jnp.broadcast_to(mask, (rows, length, length))
  if config.use_segment_mask:
    mask &= segment_ids[:, :, None] == segment_ids[:, None, :]
  return positions, empty_cache(config, rows, 0), mask


def with_room(cache: Cache, num_slots: int) -> Cache:
  """The cache with slots more behind those it has."""
  return jax.tree.map(
    lambda x: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, num_slots)]), cache
  )


def write_slots(cache: Cache, new: Cache, slots: jax.Array) -> Cache:
  """Puts entries of each row into slots of its own.

  Args:
    cache: S slots a row; given up.
    new: W entries a row.
    slots: [B] int32, where the first of them goes; all W must fit.

  Returns:
    The cache.
  """
  write = jax.vmap(
    lambda row, new, slot: jax.lax.dynamic_update_slice_in_dim(
      row, new, slot, axis=-1
    ),
    in_axes=(1, 1, 0),
    out_axes=1,
  )
  return jax.tree.map(lambda x, y: write(x, y, slots), cache, new)


def next_slot(
  cache: Cache, num_read: jax.Array, num_room: int, num_new: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Where rows go on, each after a prompt of its own length.

  The new chunks of all rows stand in the same slots, behind the longest prompt,
  so that one piece of the cache is written for all of them; what stands between
  a shorter prompt and there is never seen.

  Args:
    cache: with the prompts of all rows from slot 0 on.
    num_read: [B] int32, chunks of each row's prompt.
    num_room: slots for new chunks, the last ones.
    num_new: [] int32, of which so many are written.

  Returns:
    The slot, [] int32, and what the chunk in it sees, [B, 1, S+1].
  """
  slots = jnp.arange(cache.key.shape[-1])[None]
  first = slots.size - num_room
  slot = first + num_new
  is_read = slots < num_read[:, None]
  sees = is_read | ((slots >= first) & (slots < slot))
  mask = jnp.pad(sees, ((0, 0), (0, 1)), constant_values=True)
  return slot, mask[:, None]


def branch_positions(
  config: BackboneConfig,
  chunk_ids: jax.Array,
  num_chunks: int,
  segment_ids: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Where the chunks of paths stand, and what they see.

  Each path continues its row after one of its chunks, and belongs to that
  chunk's document; it sees the row up to there and itself, not its siblings.

  Args:
    config: of the backbone.
    chunk_ids: [B, Q] int32, the last chunk of the row that a path sees.
    num_chunks: J, chunks of each path.
    segment_ids: [B, L] int32, of the rows.

  Returns:
    Positions [B, Q·J] int32, and the mask [B, Q·J, L + Q·J].
  """
  rows, num_paths = chunk_ids.shape
  ahead = jnp.arange(num_chunks)
  positions = chunk_ids[..., None] + 1 + ahead[None, None]  # [B, Q, J]

  slots = jnp.arange(segment_ids.shape[1])
  sees_row = slots[None, None] <= chunk_ids[..., None]  # [B, Q, L]
  if config.use_segment_mask:
    own = jnp.take_along_axis(segment_ids, chunk_ids, axis=1)
    sees_row &= segment_ids[:, None] == own[..., None]
  sees_row = jnp.repeat(sees_row, num_chunks, axis=1)  # [B, Q·J, L]

  path, place = jnp.divmod(jnp.arange(num_paths * num_chunks), num_chunks)
  is_same_path = path[:, None] == path[None]
  sees_path = (is_same_path & (place[None] <= place[:, None]))[None]
  sees_path = jnp.broadcast_to(sees_path, (rows, *sees_path.shape[1:]))
  mask = jnp.concatenate([sees_row, sees_path], axis=-1)
  return positions.reshape(rows, -1), mask
