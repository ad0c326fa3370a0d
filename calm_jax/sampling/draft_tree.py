"""Drafted chunks as a prefix tree, to be read in one pass."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Tree(NamedTuple):
  """The prefixes of S drafted chunks, each once; the most frequent W − 1.

  Node 0 is the root: the last token of the text, after which drafts begin.
  Nodes stand behind their parents. Nodes that fill up the row are not used.
  """

  tokens: jax.Array  # [R, W] int32; that of the root has no meaning here
  depth: jax.Array  # [R, W] int32, 0 at the root; d: the d-th drafted token
  parent: jax.Array  # [R, W] int32, a node; that of the root is −1
  is_used: jax.Array  # [R, W] bool
  sees: jax.Array  # [R, W, W] bool, [r, i, j]: j is i or stands above it


def grow_tree(chunks: jax.Array, num_nodes: int, end_id: int) -> Tree:
  """Arranges drafts as a tree.

  A prefix that c of S drafts begin with has the estimated probability c / S,
  and a verification gets at least as far as its node with the probability that
  the text goes on so. Therefore the most frequent prefixes are kept; each is at
  most as frequent as the prefixes of itself, so what is kept is a tree.

  Args:
    chunks: [R, S, K] int32, drafts of each row.
    num_nodes: at most so many nodes besides the root.
    end_id: what stands behind it in a chunk is not text, and no node.

  Returns:
    The tree, W = 1 + min(num_nodes, S·K).
  """
  chex.assert_rank(chunks, 3)
  num_drafts, size = chunks.shape[1:]
  num_nodes = min(num_nodes, num_drafts * size)
  return jax.vmap(lambda drafts: _grow(drafts, num_nodes, end_id))(chunks)


def _grow(drafts: jax.Array, num_nodes: int, end_id: int) -> Tree:
  """The tree of one row: [S, K]."""
  num_drafts, size = drafts.shape
  is_same = drafts[:, None] == drafts[None]  # [S, S, K]
  is_same = jnp.cumsum(~is_same, axis=-1) == 0  # [S, S, K], the whole prefix
  count = jnp.sum(is_same, axis=1)  # [S, K]
  first = jnp.argmax(is_same, axis=1)  # [S, K], the first draft with it
  is_first = first == jnp.arange(num_drafts)[:, None]
  is_end = drafts == end_id
  is_text = jnp.cumsum(is_end, axis=-1) - is_end == 0
  # Of equally frequent ones the shorter first, or a parent might be left out.
  rank = count * size - jnp.arange(size)[None]
  rank = jnp.where(is_first & is_text, rank, -1)
  best, index = jax.lax.top_k(rank.reshape(-1), num_nodes)
  draft, place = jnp.divmod(index, size)

  is_used = best >= 0
  # Node i sees node j if j's prefix is a prefix of i's.
  sees = is_same[draft[:, None], draft[None], place[None]]
  sees &= place[None] <= place[:, None]
  sees &= is_used[None] | jnp.eye(num_nodes, dtype=bool)
  sees = jnp.pad(sees, ((1, 0), (1, 0)))
  sees = sees.at[:, 0].set(True)  # all see the root

  depth = jnp.pad(place + 1, (1, 0))
  is_parent = sees & (depth[None] == depth[:, None] - 1)
  parent = jnp.argmax(is_parent, axis=-1).at[0].set(-1)
  return Tree(
    tokens=jnp.pad(drafts.reshape(-1)[index], (1, 0)),
    depth=depth.astype(jnp.int32),
    parent=parent.astype(jnp.int32),
    is_used=jnp.pad(is_used, (1, 0), constant_values=True),
    sees=sees,
  )
