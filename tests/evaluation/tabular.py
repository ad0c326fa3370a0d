"""A model of three tokens whose every probability is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax import randomness

VOCABULARY = 3
ORDER = 2  # tokens of the past that matter


class Tabular:
  """P(next chunk | last two tokens) from a table; hidden states are its rows.

  As `token_model` it gives the probabilities of its (one-token) chunks away.
  """

  closing_id = None

  def __init__(self, chunk_size, *, is_token_model=False, seed=0):
    self.chunk_size = chunk_size
    num_chunks = VOCABULARY**chunk_size
    generator = np.random.default_rng(seed)
    self.table = generator.dirichlet(
      np.full(num_chunks, 2.0 / chunk_size), VOCABULARY**ORDER
    )
    self.chunks = np.array(
      list(itertools.product(range(VOCABULARY), repeat=chunk_size)), np.int32
    )
    self.probabilities = self._probabilities if is_token_model else None

  def read(self, tokens, segment_ids):
    del segment_ids
    rows, length, size = tokens.shape
    flat = jnp.pad(tokens.reshape(rows, -1), ((0, 0), (ORDER, 0)))
    last = (jnp.arange(length) + 1) * size
    return self._rows(flat[:, last], flat[:, last + 1]), flat

  def branch(self, tokens, chunk_ids, context):
    rows = jnp.arange(len(tokens))[:, None]
    end = (chunk_ids + 1) * self.chunk_size + ORDER  # of the prefix in context
    path = tokens.reshape(*tokens.shape[:2], -1)
    before = [context[rows, end - 2], context[rows, end - 1]]
    joined = jnp.concatenate([jnp.stack(before, -1), path], axis=-1)
    return self._rows(joined[..., -2], joined[..., -1])

  def draw(self, hidden, keys, sample_ids):
    keys = randomness.sample_keys(keys, sample_ids)  # [..., S]
    # One uniform number a draw: far quicker to compile than a categorical.
    uniform = jax.vmap(jax.random.uniform)(keys.reshape(-1))
    edges = jnp.cumsum(jnp.exp(hidden), axis=-1)[..., None, :-1]
    chosen = jnp.sum(uniform.reshape(keys.shape)[..., None] > edges, axis=-1)
    return jnp.asarray(self.chunks)[chosen]

  def _rows(self, second_last, last):
    return jnp.log(jnp.asarray(self.table, jnp.float32))[
      second_last * VOCABULARY + last
    ]

  def _probabilities(self, hidden, labels):
    p = jnp.exp(hidden)
    right = jnp.take_along_axis(p, labels[..., None], axis=-1)[..., 0]
    return right, jnp.sum(p**2, axis=-1)

  def distribution(self, past, num_tokens):
    """P of every sequence of the next tokens, by enumeration: {tuple: p}."""
    result = {}

    def grow(sequence, probability):
      if len(sequence) >= num_tokens:
        head = tuple(int(token) for token in sequence[:num_tokens])
        result[head] = result.get(head, 0) + probability
        return
      seen = [0] * ORDER + [*past, *sequence]
      row = self.table[seen[-2] * VOCABULARY + seen[-1]]
      for chunk, p in zip(self.chunks, row, strict=True):
        grow([*sequence, *chunk], probability * p)

    grow([], 1.0)
    return result
