"""Tokens of a token model, several at a time, with the help of drafts.

Each round a next-vector model drafts S chunks of K tokens, the token model
reads the tree of them in one pass and draws its own next token after every
node, and `verification.walk` keeps what plain decoding would have drawn.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from calm_jax.model import Cache
from calm_jax.sampling import rows as rows_lib
from calm_jax.sampling.context import with_room, write_slots
from calm_jax.sampling.draft_tree import Tree, grow_tree
from calm_jax.sampling.drafter import Drafter, Texts
from calm_jax.sampling.generate import RowKeys
from calm_jax.sampling.prompt import Prompts
from calm_jax.sampling.sampler import Sampler, SamplerFn
from calm_jax.sampling.verification import walk

DrafterFn = Callable[[Any], Drafter]


class DraftedRows(NamedTuple):
  """R rows under way."""

  # Of the token model: slot n is token n's. All but the last token of a row are
  # in it; what stands in later slots is never seen.
  cache: Cache
  draft_cache: Cache
  cut: jax.Array  # [R] int32, see `Drafter.start`
  num_draft_read: jax.Array  # [R] int32, tokens at which a read chunk ends
  texts: Texts
  num_prompt: jax.Array  # [R] int32, tokens of the prompt
  is_done: jax.Array  # [R] bool, the row has ended or has all it was to have
  num_rounds: jax.Array  # [R] int32, verifications so far
  # [R, K+1] int32, in how many of them so many drafted tokens were drawn. The
  # row's last may count tokens that it has no more room for.
  num_accepted: jax.Array


# Where the rows of each are; what is not named has them first.
_CACHE = PartitionSpec(None, *rows_lib.ROWS)
SPLIT = DraftedRows(*[rows_lib.ROWS] * len(DraftedRows._fields))._replace(
  cache=_CACHE, draft_cache=_CACHE
)


@functools.partial(jax.jit, static_argnums=(0, 1, 4, 5))
def start(
  sampler_fn: SamplerFn,
  drafter_fn: DrafterFn,
  params: tuple[Any, Any],
  prompts: Prompts,
  num_new_tokens: int,
  mesh: Mesh | None = None,
) -> DraftedRows:
  """Reads the prompts.

  Args:
    sampler_fn: params → sampler of a token model.
    drafter_fn: params → drafter.
    params: what the two take.
    prompts: R of them, in chunks of one token.
    num_new_tokens: C, room for new tokens.
    mesh: over which rows are shared out, see `rows`; all its processes call
      this together.

  Returns:
    The rows, ready to go on.
  """
  call = functools.partial(_start, sampler_fn, drafter_fn, num_new_tokens)
  call = rows_lib.over_rows(call, mesh, gives=SPLIT)
  return _told(call(params, prompts), mesh)


def _start(
  sampler_fn: SamplerFn,
  drafter_fn: DrafterFn,
  num_new_tokens: int,
  params: tuple[Any, Any],
  prompts: Prompts,
) -> DraftedRows:
  sampler, drafter = sampler_fn(params[0]), drafter_fn(params[1])
  size = drafter.chunk_size
  tokens, length = prompts.tokens[..., 0], jnp.asarray(prompts.num_chunks)
  num_rows = len(tokens)
  room = num_new_tokens + size + 1  # a verification writes K + 1 tokens
  end_id = sampler.config.vocabulary.end_id
  one_document = jnp.zeros(tokens.shape, jnp.int32)
  _, context = sampler.read(tokens[..., None], one_document)
  fill = ((0, 0), (size - 1, 0))
  texts = Texts(jnp.pad(tokens, fill, constant_values=end_id), length)
  draft_cache, cut = drafter.start(texts)
  padded = jnp.pad(texts.tokens, ((0, 0), (0, room)), constant_values=end_id)
  return DraftedRows(
    cache=with_room(context.cache, room),
    draft_cache=with_room(draft_cache, room),
    cut=cut,
    num_draft_read=length - 1,
    texts=texts._replace(tokens=padded),
    num_prompt=length,
    is_done=jnp.zeros(num_rows, bool),
    num_rounds=jnp.zeros(num_rows, jnp.int32),
    num_accepted=jnp.zeros((num_rows, size + 1), jnp.int32),
  )


class Limits(NamedTuple):
  """What a call of `advance` takes beside the rows, all numbers."""

  num_rounds: jax.Array  # [] int32, verifications at most
  num_tokens: jax.Array  # [] int32, new tokens of a row, from its prompt on


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 7), donate_argnums=4)
def advance(
  sampler_fn: SamplerFn,
  drafter_fn: DrafterFn,
  num_nodes: int,
  params: tuple[Any, Any],
  rows: DraftedRows,
  keys: RowKeys,
  limits: Limits,
  mesh: Mesh | None = None,
) -> DraftedRows:
  """Adds tokens to every row until it ends.

  A row ends with an end id, or with the token that is the last it may have. The
  token at a place is drawn with the row's key of that place, as in
  `generate.advance` of the same keys.

  Args:
    sampler_fn: params → sampler of a token model.
    drafter_fn: params → drafter.
    num_nodes: drafted prefixes that are verified at most.
    params: what the two take.
    rows: as they stand; given up.
    keys: of the rows; drafts are drawn with those of choices, which a token
      model has no use for.
    limits: how far to go.
    mesh: as in `start`.

  Returns:
    The rows.
  """
  call = functools.partial(_advance, sampler_fn, drafter_fn, num_nodes)
  row = rows_lib.ROWS
  call = rows_lib.over_rows(call, mesh, takes=(row, SPLIT), gives=SPLIT)
  return _told(call((params, limits), keys, rows), mesh)


def _advance(
  sampler_fn: SamplerFn,
  drafter_fn: DrafterFn,
  num_nodes: int,
  shared: tuple[tuple[Any, Any], Limits],
  keys: RowKeys,
  rows: DraftedRows,
) -> DraftedRows:
  params, limits = shared
  sampler, drafter = sampler_fn(params[0]), drafter_fn(params[1])
  end_id = sampler.config.vocabulary.end_id
  fold = jax.vmap(jax.random.fold_in)

  def goes_on(state: tuple[jax.Array, DraftedRows]) -> jax.Array:
    count, rows = state
    return (count < limits.num_rounds) & ~jnp.all(rows.is_done)

  def add_tokens(
    state: tuple[jax.Array, DraftedRows],
  ) -> tuple[jax.Array, DraftedRows]:
    count, rows = state
    length = rows.texts.length
    drafts, draft_cache = drafter.draft(
      rows.texts,
      rows.cut,
      rows.draft_cache,
      rows.num_draft_read,
      fold(keys.choice, length),
    )
    tree = grow_tree(drafts, num_nodes, end_id)
    drawn, new = _read_tree(sampler, rows, tree, keys)
    found = walk(tree, drawn, drafter.chunk_size)

    is_end = found.tokens == end_id
    until_end = jnp.argmax(is_end, axis=1) + 1
    num_left = rows.num_prompt + limits.num_tokens - length
    at_most = jnp.where(
      jnp.any(is_end, axis=1), jnp.minimum(until_end, num_left), num_left
    )
    is_open = ~rows.is_done
    num_new = jnp.where(is_open, jnp.minimum(found.num_new, at_most), 0)
    accepted = jax.nn.one_hot(
      found.num_new - 1, drafter.chunk_size + 1, dtype=jnp.int32
    )
    # The keys and values of the way down, in the order of the text.
    path = jax.tree.map(
      lambda x: jnp.take_along_axis(x, found.nodes[None, :, None, None], -1),
      new,
    )
    written = jax.vmap(
      lambda row, new, place: jax.lax.dynamic_update_slice(row, new, (place,))
    )(rows.texts.tokens, found.tokens, length + drafter.chunk_size - 1)
    return count + 1, DraftedRows(
      cache=write_slots(rows.cache, path, length - 1),
      draft_cache=draft_cache,
      cut=rows.cut,
      num_draft_read=jnp.where(num_new > 0, length, rows.num_draft_read),
      texts=Texts(written, length + num_new),
      num_prompt=rows.num_prompt,
      is_done=rows.is_done | (num_new == at_most),
      num_rounds=rows.num_rounds + is_open,
      num_accepted=rows.num_accepted + is_open[:, None] * accepted,
    )

  return jax.lax.while_loop(goes_on, add_tokens, (jnp.int32(0), rows))[1]


def _read_tree(
  sampler: Sampler, rows: DraftedRows, tree: Tree, keys: RowKeys
) -> tuple[jax.Array, Cache]:
  """Draws a token after every node: [R, W], and its keys and values."""
  num_rows, width = tree.tokens.shape
  length, size = rows.texts.length, rows.num_accepted.shape[1] - 1
  last = rows.texts.tokens[jnp.arange(num_rows), length + size - 2]
  tokens = tree.tokens.at[:, 0].set(last)
  places = length[:, None] - 1 + tree.depth
  num_slots = rows.cache.key.shape[-1]
  is_read = jnp.arange(num_slots)[None] < length[:, None] - 1
  is_read = jnp.broadcast_to(is_read[:, None], (num_rows, width, num_slots))
  mask = jnp.concatenate([is_read, tree.sees], axis=-1)
  hidden, longer = sampler.step(tokens[..., None], places, rows.cache, mask)
  new = jax.tree.map(lambda x: x[..., num_slots:], longer)
  fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))
  drawn = sampler.draw(
    hidden, fold(keys.noise, places + 1), jnp.zeros(1, jnp.uint32)
  )
  return drawn[..., 0, 0], new


def _told(rows: DraftedRows, mesh: Mesh | None) -> DraftedRows:
  """With all but the caches on every process."""
  told = rows._replace(cache=None, draft_cache=None)
  return rows_lib.everywhere(told, mesh)._replace(
    cache=rows.cache, draft_cache=rows.draft_cache
  )
