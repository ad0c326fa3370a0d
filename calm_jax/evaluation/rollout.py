"""Accuracy and collision of the next four tokens at many positions.

With chunks of four or more tokens one draw holds them all. With shorter chunks
four tokens span several, and the chain rule says what to do: P(y) is a product
of probabilities after the *true* earlier chunks, so its estimate is a product
of accuracies; Σ P² needs pairs that agree on every chunk of their *own* paths,
so samples are followed along what they drew themselves, but only where another
sample drew the same. Samples on one path are read once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.evaluation.brier import (
  accuracy,
  agreeing_pairs,
  all_pairs,
  pair_share,
)
from calm_jax.evaluation.positions import NUM_ORDERS, Positions
from calm_jax.sampling.sampler import Sampler


class Terms(NamedTuple):
  """Parts of the Brier score for n = 1 … 4 at every position."""

  accuracy: jax.Array  # [B, P, 4] float32
  collision: jax.Array  # [B, P, 4] float32


class Draws(NamedTuple):
  """What a model said at the positions after true context."""

  chunk_ids: np.ndarray  # [U] int32, all that the scored positions need
  hidden: jax.Array  # [B, U, D]
  tokens: jax.Array  # [B, U, S, K] int32


def needed_chunks(positions: Positions) -> np.ndarray:
  """Chunks after which a draw is needed: [U] int32, ascending."""
  ahead = np.arange(positions.num_chunks, dtype=np.int32)
  return np.unique(positions.chunk_ids[:, None] + ahead)


def accuracy_terms(
  model: Sampler, draws: Draws, tokens: jax.Array, positions: Positions
) -> jax.Array:
  """Estimates of P(y_1 … y_n) after true context, n = 1 … 4.

  Args:
    model: that made the draws.
    draws: at `needed_chunks(positions)`.
    tokens: [B, L, K] int32, the true rows.
    positions: where to score.

  Returns:
    [B, P, 4] float32.
  """
  labels = tokens[:, draws.chunk_ids + 1]  # [B, U, K]
  if model.probabilities is None:
    share = accuracy(draws.tokens[..., :NUM_ORDERS], labels[..., :NUM_ORDERS])
  else:
    share = model.probabilities(draws.hidden, labels[..., 0])[0][..., None]
  first = np.searchsorted(draws.chunk_ids, positions.chunk_ids)  # [P]
  result, whole = [], 1.0
  for chunk in range(positions.num_chunks):
    here = share[:, first + chunk]  # [B, P, K]
    result.append(whole * here)
    whole = whole * here[..., -1:]
  return jnp.concatenate(result, axis=-1)[..., :NUM_ORDERS]


def collision_terms(
  model: Sampler,
  draws: Draws,
  context: Any,
  keys: jax.Array,
  positions: Positions,
  *,
  num_paths: int = 64,
) -> jax.Array:
  """Estimates of Σ P(x_1 … x_n)², n = 1 … 4.

  For token models the last step of each is exact: pairs on one path count with
  Σ p² instead of with two more draws.

  Args:
    model: that made the draws.
    draws: at `needed_chunks(positions)`.
    context: of the rows, from `model.read`.
    keys: [B, P, J] typed keys, for the draws on J = num_chunks − 1 further
      chunks of each path.
    positions: where to score.
    num_paths: paths of a row that are followed at once; bounds the memory.

  Returns:
    [B, P, 4] float32.
  """
  first = np.searchsorted(draws.chunk_ids, positions.chunk_ids)  # [P]
  drawn = draws.tokens[:, first, :, :NUM_ORDERS]  # [B, P, S, K]
  num_samples = drawn.shape[2]
  shape = (*drawn.shape[:2], num_samples, num_samples)
  is_pair = jnp.broadcast_to(all_pairs(num_samples)[None, None], shape)
  result = []
  if model.probabilities is not None:
    labels = jnp.zeros(draws.hidden.shape[:2], jnp.int32)
    squares = model.probabilities(draws.hidden, labels)[1]
    result.append(squares[:, first][..., None])
  paths = drawn[..., None, :]  # [B, P, S, J, K]
  for chunk in range(positions.num_chunks):
    agreed = agreeing_pairs(drawn, is_pair)
    if model.probabilities is None:
      result.append(jnp.stack([pair_share(it) for it in agreed], axis=-1))
    if chunk + 1 == positions.num_chunks:
      break
    is_pair = agreed[-1]
    drawn, squares = _follow(
      model,
      paths,
      is_pair,
      context,
      keys[..., chunk],
      positions,
      num_paths=num_paths,
    )
    if model.probabilities is not None:
      result.append(squares[..., None])
    paths = jnp.concatenate([paths, drawn[..., None, :]], axis=-2)
  return jnp.concatenate(result, axis=-1)[..., :NUM_ORDERS]


def _follow(
  model: Sampler,
  paths: jax.Array,
  is_pair: jax.Array,
  context: Any,
  keys: jax.Array,
  positions: Positions,
  *,
  num_paths: int,
) -> tuple[jax.Array, jax.Array]:
  """One more chunk for the samples that share their path with another.

  Args:
    model: the model.
    paths: [B, P, S, J, K] int32, what each sample drew so far.
    is_pair: [B, P, S, S] bool, different samples on one path.
    context: of the rows.
    keys: [B, P].
    positions: where the paths start.
    num_paths: Q, paths of a row at once.

  Returns:
    The next chunks, [B, P, S, K], zero where a sample is alone, and the share
    of pairs times Σ p² on their path, [B, P]; zero without probabilities.
  """
  num_rows, num_positions, num_samples, _, chunk_size = paths.shape
  sample_ids = jnp.arange(num_samples, dtype=jnp.uint32)
  is_member = is_pair | np.eye(num_samples, dtype=bool)[None, None]
  leader = jnp.argmax(is_member, axis=-1)  # [B, P, S] the first on the path
  is_leader = leader == jnp.arange(num_samples)[None, None]
  is_followed = is_leader & jnp.any(is_pair, axis=-1)

  # Those to follow come first, row by row, and are taken Q at a time.
  flat = is_followed.reshape(num_rows, -1)
  order = jnp.argsort(~flat, axis=-1, stable=True)
  order = jnp.pad(order, ((0, 0), (0, -order.shape[1] % num_paths)))
  num_followed = jnp.sum(flat, axis=-1)  # [B]
  rows = jnp.arange(num_rows)[:, None]
  chunk_ids = jnp.asarray(positions.chunk_ids)

  def take_block(carry):
    start, drawn, squares = carry
    index = jax.lax.dynamic_slice_in_dim(order, start, num_paths, axis=1)
    is_live = start + jnp.arange(num_paths)[None] < num_followed[:, None]
    place, sample = index // num_samples, index % num_samples  # [B, Q]
    hidden = model.branch(paths[rows, place, sample], chunk_ids[place], context)
    members = is_member[rows, place, sample] & is_live[..., None]  # [B, Q, S]
    if model.probabilities is None:
      new = _draw_members(model, hidden, keys[rows, place], members)
    else:  # one distribution, from which all samples cost little more than one
      new = model.draw(hidden, keys[rows, place], sample_ids)  # [B, Q, S, K]
    # Each sample is on one path, so adding to zero is setting.
    drawn = drawn.at[rows, place].add(jnp.where(members[..., None], new, 0))
    if model.probabilities is not None:
      labels = jnp.zeros(index.shape, jnp.int32)
      pairs = members.sum(axis=-1) * (members.sum(axis=-1) - 1)
      share = pairs / (num_samples * (num_samples - 1))
      square = model.probabilities(hidden, labels)[1]
      squares = squares.at[rows, place].add(
        jnp.where(is_live, share * square, 0)
      )
    return start + num_paths, drawn, squares

  _, drawn, squares = jax.lax.while_loop(
    lambda carry: carry[0] < jnp.max(num_followed),
    take_block,
    (
      jnp.int32(0),
      jnp.zeros((*is_member.shape[:3], chunk_size), paths.dtype),
      jnp.zeros((num_rows, num_positions), jnp.float32),
    ),
  )
  return drawn, squares


def _draw_members(
  model: Sampler, hidden: jax.Array, keys: jax.Array, members: jax.Array
) -> jax.Array:
  """The next chunks of the samples that are on a path, and of no others.

  Args:
    model: without likelihoods.
    hidden: [B, Q, D], after each path.
    keys: [B, Q].
    members: [B, Q, S] bool.

  Returns:
    [B, Q, S, K] int32, zero for samples elsewhere.
  """
  num_rows, num_paths, num_samples = members.shape
  # Paths have two members or more. Those to draw come first, row by row.
  size = 2 * num_paths
  flat = members.reshape(num_rows, -1)
  order = jnp.argsort(~flat, axis=-1, stable=True)
  order = jnp.pad(order, ((0, 0), (0, -order.shape[1] % size)))
  num_members = jnp.sum(flat, axis=-1)  # [B]
  rows = jnp.arange(num_rows)[:, None]
  draw = lambda hidden, key, i: model.draw(hidden[None], key[None], i[None])
  draw = jax.vmap(jax.vmap(draw))

  def take_block(carry):
    start, drawn = carry
    index = jax.lax.dynamic_slice_in_dim(order, start, size, axis=1)
    is_live = start + jnp.arange(size)[None] < num_members[:, None]
    path, sample = index // num_samples, index % num_samples  # [B, 2Q]
    new = draw(hidden[rows, path], keys[rows, path], sample.astype(jnp.uint32))
    new = jnp.where(is_live[..., None], new[:, :, 0, 0], 0)
    return start + size, drawn.at[rows, path, sample].add(new)

  first = jnp.zeros(1, jnp.uint32)
  chunk = jax.eval_shape(model.draw, hidden[:, 0], keys[:, 0], first)
  zeros = jnp.zeros((*members.shape, chunk.shape[-1]), chunk.dtype)
  _, drawn = jax.lax.while_loop(
    lambda carry: carry[0] < jnp.max(num_members),
    take_block,
    (jnp.int32(0), zeros),
  )
  return drawn
