"""Chunk after chunk in one compiled loop, with a key/value cache."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from calm_jax.model import Cache
from calm_jax.randomness import stream_key
from calm_jax.sampling import rows as rows_lib
from calm_jax.sampling.context import next_slot, with_room
from calm_jax.sampling.next_chunk import Temperature, draw_next
from calm_jax.sampling.prompt import Prompts
from calm_jax.sampling.sampler import SamplerFn


class Generation(NamedTuple):
  """R rows under way; C new chunks at most."""

  cache: Cache
  hidden: jax.Array  # [R, D], after the last chunk
  num_chunks: jax.Array  # [R] int32, chunks read, prompt included
  tokens: jax.Array  # [R, C, K] int32, the new chunks; end ids where none yet
  # [1] int32, chunks made so far; where devices go on by themselves, see
  # `rows.over_rows`, [n]: those of each device's rows
  num_new: jax.Array
  is_done: jax.Array  # [R] bool, the row has ended
  num_draws: jax.Array  # [R] int32, draws of the model so far
  num_spent: jax.Array  # [R] int32, chunks whose exact budget was spent
  num_fallbacks: jax.Array  # [R] int32, chunks chosen among the most frequent


class RowKeys(NamedTuple):
  """Where the draws of each row come from."""

  noise: jax.Array  # [R] typed keys, of the draws
  choice: jax.Array  # [R], of the choice among them


# Where the rows of each are; what is not named has them first.
SPLIT = Generation(*[rows_lib.ROWS] * len(Generation._fields))._replace(
  cache=PartitionSpec(None, *rows_lib.ROWS)
)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def start(
  sampler_fn: SamplerFn,
  params: Any,
  prompts: Prompts,
  num_new_chunks: int,
  mesh: Mesh | None = None,
) -> Generation:
  """Reads the prompts.

  Args:
    sampler_fn: params → sampler.
    params: what it takes.
    prompts: R of them.
    num_new_chunks: C, room for new chunks.
    mesh: over which rows are shared out, see `rows`; all its processes call
      this together.

  Returns:
    The rows, ready to go on.
  """
  call = functools.partial(_start, sampler_fn, num_new_chunks)
  call = rows_lib.over_rows(call, mesh, gives=SPLIT)
  return _told(call(params, prompts), mesh)


def _start(
  sampler_fn: SamplerFn, num_new_chunks: int, params: Any, prompts: Prompts
) -> Generation:
  sampler = sampler_fn(params)
  tokens, num_chunks = prompts
  num_rows, length, chunk_size = tokens.shape
  # What stands behind a shorter prompt is read too, but never seen.
  one_document = jnp.zeros((num_rows, length), jnp.int32)
  hidden, context = sampler.read(tokens, one_document)
  zeros = jnp.zeros(num_rows, jnp.int32)
  end_id = sampler.config.vocabulary.end_id
  return Generation(
    cache=with_room(context.cache, num_new_chunks),
    hidden=hidden[jnp.arange(num_rows), num_chunks - 1],
    num_chunks=jnp.asarray(num_chunks),
    tokens=jnp.full((num_rows, num_new_chunks, chunk_size), end_id, jnp.int32),
    num_new=jnp.zeros(1, jnp.int32),
    is_done=jnp.zeros(num_rows, bool),
    num_draws=zeros,
    num_spent=zeros,
    num_fallbacks=zeros,
  )


def row_keys(
  seed: int, prompt_ids: jax.Array, sample_ids: jax.Array
) -> RowKeys:
  """Keys of rows, each a numbered continuation of its prompt.

  Args:
    seed: of all draws.
    prompt_ids: [R] uint32, what tells prompts apart; see `prompt.prompt_id`.
    sample_ids: [R] uint32, numbers of the continuations.

  Returns:
    The keys.
  """
  names = ("generation_noise", "generation_choice")
  keys = RowKeys(*(stream_key(seed, name) for name in names))
  return _fold_rows(keys, prompt_ids, sample_ids)


@jax.jit
def _fold_rows(
  keys: RowKeys, prompt_ids: jax.Array, sample_ids: jax.Array
) -> RowKeys:
  """Keys [] → [R]; compiled, because folds one by one take milliseconds."""
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  fold_samples = jax.vmap(jax.random.fold_in)
  return jax.tree.map(
    lambda key: fold_samples(fold(key, prompt_ids), sample_ids), keys
  )


@functools.partial(jax.jit, static_argnums=(0, 6), donate_argnums=2)
def advance(
  sampler_fn: SamplerFn,
  params: Any,
  rows: Generation,
  keys: RowKeys,
  num_chunks: jax.Array,
  temperature: Temperature,
  mesh: Mesh | None = None,
) -> Generation:
  """Adds chunks to every row until it ends.

  A row ends with the chunk that holds an end id, and what that chunk holds
  after its end id is replaced by end ids. With `when_spent="stop"` it also ends
  before a chunk that the exact method did not find within its budget; that
  chunk is then all end ids. The draws of a row depend on its
  keys and the index of the chunk in the row, not on other rows.

  Args:
    sampler_fn: params → sampler.
    params: what it takes.
    rows: as they stand; given up.
    keys: of the rows.
    num_chunks: [] int32, so many chunks more, as far as there is room.
    temperature: and method.
    mesh: as in `start`.

  Returns:
    The rows.
  """
  call = functools.partial(_advance, sampler_fn)
  call = rows_lib.over_rows(
    call, mesh, takes=(rows_lib.ROWS, SPLIT), gives=SPLIT
  )
  return _told(call((params, temperature, num_chunks), keys, rows), mesh)


def _advance(
  sampler_fn: SamplerFn,
  shared: tuple[Any, Temperature, jax.Array],
  keys: RowKeys,
  rows: Generation,
) -> Generation:
  params, temperature, num_chunks = shared
  sampler = sampler_fn(params)
  end_id = sampler.config.vocabulary.end_id
  fold = jax.vmap(jax.random.fold_in)
  room = rows.tokens.shape[1]
  last = jnp.minimum(rows.num_new[0] + num_chunks, room)

  def goes_on(rows: Generation) -> jax.Array:
    return (rows.num_new[0] < last) & ~jnp.all(rows.is_done)

  def add_chunk(rows: Generation) -> Generation:
    num_new = rows.num_new[0]
    found = draw_next(
      sampler,
      rows.hidden,
      fold(keys.noise, rows.num_chunks),
      fold(keys.choice, rows.num_chunks),
      temperature,
      rows.is_done,
    )
    is_end = found.tokens == end_id
    if temperature.when_spent == "stop":
      is_end |= found.is_spent[:, None]
    is_over = jnp.cumsum(is_end, axis=-1) > 0
    tokens = jnp.where(is_over | rows.is_done[:, None], end_id, found.tokens)
    slot, mask = next_slot(rows.cache, rows.num_chunks - num_new, room, num_new)
    hidden, cache = sampler.step(
      tokens[:, None], rows.num_chunks[:, None], rows.cache, mask, slot
    )
    is_open = ~rows.is_done
    return Generation(
      cache=cache,
      hidden=hidden[:, 0],
      num_chunks=rows.num_chunks + 1,
      tokens=rows.tokens.at[:, num_new].set(tokens),
      num_new=rows.num_new + 1,
      is_done=rows.is_done | jnp.any(is_end, axis=-1),
      num_draws=rows.num_draws + is_open * found.num_draws,
      num_spent=rows.num_spent + (is_open & found.is_spent),
      num_fallbacks=rows.num_fallbacks + (is_open & found.is_fallback),
    )

  return jax.lax.while_loop(goes_on, add_chunk, rows)


def _told(rows: Generation, mesh: Mesh | None) -> Generation:
  """With all but cache and hidden states on every process."""
  told = rows._replace(cache=None, hidden=None)
  return rows_lib.everywhere(told, mesh)._replace(
    cache=rows.cache, hidden=rows.hidden
  )
