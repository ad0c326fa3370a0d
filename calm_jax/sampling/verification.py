r"""How far a token model goes along with drafts, without their likelihoods.

Let t_n = f(x_{<n}, k_n) be the token that a token model draws after the text
x_{<n} with the key k_n of position n; plain decoding sets x_n = t_n. Greedy
decoding, temperature, top-k and top-p are all of this form.

Claim: whatever is drafted, verified decoding gives the x of plain decoding.

Proof, by induction over n. Let x_{<n} be that of plain decoding; for the prompt
it is. The walk stands at the node whose path from the text is what of x_{<n} is
drafted. Its hidden state has seen x_{<n} and nothing else, for it sees the text
and the nodes above it; so the draw there is t_n = f(x_{<n}, k_n) = x_n, since
k_n depends on the position alone, not on how the text got there. The walk gives
t_n out in both cases: if the node has a child with that token it goes on there,
which is the node of x_{≤n}; if not it ends, and the text is x_{≤n}. In the next
verification its root is the node of that text. ∎

No probability of the drafter occurs: drafts decide how many tokens a pass
gives, between 1 and K + 1, and not which. The usual acceptance rule min(1, p/q)
needs both likelihoods, and keeps the distribution where this keeps the sample.

In floating point f is computed in a pass over W positions instead of one, and
sums may be rounded otherwise: logits differ by about 1e-6 of their size in
float32. A token can then differ only where a draw falls as near to the border
of two tokens, or where two tokens that tie at the cut of top-k or top-p change
places. This cannot be ruled out; from there on the texts differ.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.sampling.draft_tree import Tree


class Walk(NamedTuple):
  """What one verification gives."""

  tokens: jax.Array  # [R, K+1] int32, the model's own; read the first `num_new`
  num_new: jax.Array  # [R] int32, from 1 to K + 1
  # [R, K+1] int32, the nodes that the tokens were drawn at: 0, then those of
  # the tokens before; behind them 0
  nodes: jax.Array


def walk(tree: Tree, drawn: jax.Array, chunk_size: int) -> Walk:
  """Goes down the tree as long as the token model's draws are drafted.

  Args:
    tree: of drafts.
    drawn: [R, W] int32, the token drawn after each node.
    chunk_size: K.

  Returns:
    The tokens, the accepted ones and the one that no draft has.
  """
  rows = jnp.arange(len(drawn))
  node = jnp.zeros(len(drawn), jnp.int32)
  is_open = jnp.ones(len(drawn), bool)
  tokens, nodes, opened = [], [], []
  for place in range(chunk_size + 1):
    token = drawn[rows, node]
    tokens.append(token)
    nodes.append(jnp.where(is_open, node, 0))
    opened.append(is_open)
    if place < chunk_size:
      is_child = tree.is_used & (tree.parent == node[:, None])
      is_child &= tree.tokens == token[:, None]
      is_open &= jnp.any(is_child, axis=1)
      node = jnp.argmax(is_child, axis=1).astype(jnp.int32)
  return Walk(
    tokens=jnp.stack(tokens, axis=1),
    num_new=jnp.sum(jnp.stack(opened, axis=1), axis=1, dtype=jnp.int32),
    nodes=jnp.stack(nodes, axis=1),
  )
