"""Exact temperature for any T in (0, 1], on the device (paper Alg. 1)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax import randomness
from calm_jax.sampling.temperature import Exponent


class ExactResult(NamedTuple):
  """What the exact method found for each of R rows."""

  tokens: jax.Array  # [R, K] int32; meaningless where not accepted
  is_accepted: jax.Array  # [R] bool; False: the budget was spent before
  num_draws: jax.Array  # [R] int32, at most the budget


class _State(NamedTuple):
  """Where each row stands in the algorithm."""

  tokens: jax.Array  # [R, K] the candidate x*
  num_in_trial: jax.Array  # [R] draws of the current trial of n
  is_equal: jax.Array  # [R] all of them alike so far
  num_coins: jax.Array  # [R] i of the second stage; 0: still in the first
  is_accepted: jax.Array  # [R]
  num_draws: jax.Array  # [R]


def sample_exact(
  draw_fn: Callable[[jax.Array], jax.Array],
  keys: jax.Array,
  exponent: Exponent,
  *,
  max_draws: jax.Array | int,
  is_done: jax.Array | None = None,
  block_size: int = 64,
) -> ExactResult:
  """Draws one chunk a row from P^{1/T}, given only draws from P.

  With 1/T = n + a: draw n chunks, and again until all n are equal; that chunk
  x* has probability ∝ P(x*)^n. If a > 0, a Bernoulli factory then accepts it
  with probability P(x*)^a: for i = 1, 2, … draw x; accept if x = x*, else
  start over with probability a/i.

  Every row draws until it accepts or its budget is spent. The result does not
  depend on `block_size`, nor on the other rows.

  Args:
    draw_fn: sample ids [n] uint32 → chunks [R, n, K] int32, where the chunk of
      a row and an id is always the same and independent of all others.
    keys: [R], for the coins; independent of what `draw_fn` uses.
    exponent: 1/T, from `split_temperature`; numbers or arrays [].
    max_draws: the budget of each row, at least one; a number or an array [].
    is_done: [R] bool, rows for which nothing is drawn; None: none.
    block_size: chunks drawn at once for every row; bounds the memory.

  Returns:
    The chunks, which rows accepted one, and the draws each row used.
  """
  block_ids = jnp.arange(block_size, dtype=jnp.uint32)
  chunks = jax.eval_shape(draw_fn, block_ids)
  num_rows, _, chunk_size = chunks.shape
  zeros = jnp.zeros(num_rows, jnp.int32)
  never = jnp.zeros(num_rows, bool)
  state = _State(
    jnp.zeros((num_rows, chunk_size), chunks.dtype),
    zeros,
    never,
    zeros,
    never if is_done is None else is_done,
    zeros,
  )

  def is_open(state: _State) -> jax.Array:
    return ~state.is_accepted & (state.num_draws < max_draws)

  def take_block(carry):
    state, start = carry
    sample_ids = start + block_ids
    tokens = jnp.swapaxes(draw_fn(sample_ids), 0, 1)  # [n, R, K]
    coins = _coins(keys, sample_ids, exponent).T  # [n, R]

    def take_draw(state, draw):
      following = _advance(state, *draw, exponent)
      is_row_open = is_open(state)
      following = jax.tree.map(
        lambda new, old: jnp.where(_like(is_row_open, new), new, old),
        following,
        state,
      )
      return following, None

    state, _ = jax.lax.scan(take_draw, state, (tokens, coins))
    return state, start + jnp.uint32(block_size)

  state, _ = jax.lax.while_loop(
    lambda carry: jnp.any(is_open(carry[0])),
    take_block,
    (state, jnp.uint32(0)),
  )
  return ExactResult(state.tokens, state.is_accepted, state.num_draws)


def _advance(
  state: _State, tokens: jax.Array, coins: jax.Array, exponent: Exponent
) -> _State:
  """Feeds one draw to each row; coins are uniform in [0, 1)."""
  is_match = jnp.all(tokens == state.tokens, axis=-1)

  is_first = state.num_in_trial == 0
  is_equal = is_first | (state.is_equal & is_match)
  is_trial_over = state.num_in_trial + 1 == exponent.whole
  is_agreed = is_trial_over & is_equal

  is_second_stage = state.num_coins > 0
  is_coin_up = coins * state.num_coins < exponent.fraction
  is_rejected = is_second_stage & ~is_match & is_coin_up

  return _State(
    tokens=jnp.where(
      _like(is_first & ~is_second_stage, tokens), tokens, state.tokens
    ),
    num_in_trial=jnp.where(
      is_second_stage | is_trial_over, 0, state.num_in_trial + 1
    ),
    is_equal=is_equal,
    num_coins=jnp.where(
      is_second_stage,
      jnp.where(is_rejected, 0, state.num_coins + 1),
      is_agreed.astype(jnp.int32),
    ),
    is_accepted=jnp.where(
      is_second_stage, is_match, is_agreed & (exponent.fraction == 0)
    ),
    num_draws=state.num_draws + 1,
  )


def _coins(
  keys: jax.Array, sample_ids: jax.Array, exponent: Exponent
) -> jax.Array:
  """Uniform numbers [R, n], one for each row and draw; none when a = 0."""
  shape = (len(keys), len(sample_ids))

  def flip():
    flat = randomness.sample_keys(keys, sample_ids).reshape(-1)
    return jax.vmap(jax.random.uniform)(flat).reshape(shape)

  return jax.lax.cond(
    jnp.asarray(exponent.fraction > 0), flip, lambda: jnp.zeros(shape)
  )


def _like(flags: jax.Array, array: jax.Array) -> jax.Array:
  """Row flags with the rank of `array`."""
  return flags.reshape(flags.shape + (1,) * (array.ndim - 1))
