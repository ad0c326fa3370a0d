"""One chunk a row at a temperature, by whichever method."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.sampling import agreement, batch
from calm_jax.sampling.exact import sample_exact
from calm_jax.sampling.sampler import Sampler
from calm_jax.sampling.temperature import split_temperature

METHODS = ("batch", "exact", "hybrid")
_MAX_BLOCK = 256  # candidates of a row that exist as latents at once
_FALLBACK_IDS = 2**30  # candidates after a spent budget are fresh draws


@dataclasses.dataclass(kw_only=True, frozen=True)
class TemperatureSettings:
  """How a model without likelihoods is sampled colder."""

  temperature: float = 1.0  # T in (0, 1]
  # batch | exact | hybrid: at T = 1/n exact on the batch, if it can, else batch
  method: str = "batch"
  num_candidates: int = 200  # N_b, of the batch and hybrid methods
  max_draws: int = 20_000  # budget of the exact method, draws a chunk
  when_spent: str = "stop"  # stop | batch: what then becomes of the row

  def __post_init__(self):
    exponent = split_temperature(self.temperature)
    _check_choice("method", self.method, METHODS)
    _check_choice("when_spent", self.when_spent, ("stop", "batch"))
    if self.method == "exact" and self.max_draws < exponent.whole:
      raise ValueError(
        f"max_draws is {self.max_draws}; at temperature {self.temperature} the"
        f" exact method compares {exponent.whole} draws with each other, and"
        " commonly needs thousands."
      )
    if self.uses_candidates:
      batch.log_weights(self.temperature, self.num_candidates)

  @property
  def is_plain(self) -> bool:
    """One draw is all: T = 1 is the model's own distribution."""
    return split_temperature(self.temperature) == (1, 0.0)

  @property
  def uses_candidates(self) -> bool:
    return not self.is_plain and (
      self.method != "exact" or self.when_spent == "batch"
    )


class NextChunk(NamedTuple):
  """One chunk for each of R rows, and how it came about."""

  tokens: jax.Array  # [R, K] int32
  num_draws: jax.Array  # [R] int32
  is_spent: jax.Array  # [R] bool, the exact method's budget was spent
  is_fallback: jax.Array  # [R] bool, no candidate came up ⌊1/T⌋ times


def draw_next(
  sampler: Sampler,
  hidden: jax.Array,
  keys: jax.Array,
  choice_keys: jax.Array,
  settings: TemperatureSettings,
  is_done: jax.Array | None = None,
) -> NextChunk:
  """Draws the next chunk of each row.

  Args:
    sampler: draws at T = 1.
    hidden: [R, D].
    keys: [R] typed keys of the positions, for the draws.
    choice_keys: [R], for what is chosen among them.
    settings: temperature and method.
    is_done: [R] bool, rows whose chunk nobody reads; None: none.

  Returns:
    The chunks.
  """
  num_rows = len(keys)
  never = jnp.zeros(num_rows, bool)
  if settings.is_plain:
    tokens = sampler.draw(hidden, keys, jnp.zeros(1, jnp.uint32))[:, 0]
    return NextChunk(tokens, jnp.ones(num_rows, jnp.int32), never, never)
  exponent = split_temperature(settings.temperature)
  if settings.method != "exact" and exponent.fraction == 0:
    return _agree(sampler, hidden, keys, choice_keys, settings, is_done)
  # With a fraction, cutting the exact method off would favour quick chunks.
  if settings.method != "exact":
    chosen = _choose(sampler, hidden, keys, choice_keys, settings, 0)
    num_draws = jnp.full(num_rows, settings.num_candidates, jnp.int32)
    return NextChunk(chosen.tokens, num_draws, never, chosen.is_fallback)

  found = sample_exact(
    lambda sample_ids: sampler.draw(hidden, keys, sample_ids),
    choice_keys,
    exponent,
    max_draws=settings.max_draws,
    is_done=is_done,
  )
  exact = NextChunk(found.tokens, found.num_draws, ~found.is_accepted, never)
  if settings.when_spent == "stop":
    return exact

  def replace() -> NextChunk:
    chosen = _choose(
      sampler, hidden, keys, choice_keys, settings, _FALLBACK_IDS
    )
    is_spent = exact.is_spent
    return NextChunk(
      jnp.where(is_spent[:, None], chosen.tokens, exact.tokens),
      exact.num_draws + jnp.where(is_spent, settings.num_candidates, 0),
      is_spent,
      is_spent & chosen.is_fallback,
    )

  return jax.lax.cond(jnp.any(exact.is_spent), replace, lambda: exact)


def _agree(
  sampler: Sampler,
  hidden: jax.Array,
  keys: jax.Array,
  choice_keys: jax.Array,
  settings: TemperatureSettings,
  is_done: jax.Array | None,
) -> NextChunk:
  """The batch or hybrid method at T = 1/n."""
  whole = split_temperature(settings.temperature).whole
  num_candidates = settings.num_candidates
  if settings.method == "hybrid":
    tries = agreement.consecutive_tries(len(keys), num_candidates, whole)
  else:
    try_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(choice_keys)
    tries = agreement.random_tries(try_keys, num_candidates, whole)

  def draw_fn(rows: jax.Array, sample_ids: jax.Array) -> jax.Array:
    draw = lambda hidden, key, ids: sampler.draw(hidden[None], key[None], ids)
    return jax.vmap(draw)(hidden[rows], keys[rows], sample_ids)[:, 0]

  found = agreement.sample_agreement(
    draw_fn,
    tries,
    choice_keys,
    jnp.asarray(batch.log_weights(settings.temperature, num_candidates)),
    is_done=is_done,
  )
  never = jnp.zeros(len(keys), bool)
  return NextChunk(found.tokens, found.num_draws, never, found.is_fallback)


def _choose(
  sampler: Sampler,
  hidden: jax.Array,
  keys: jax.Array,
  choice_keys: jax.Array,
  settings: TemperatureSettings,
  first_id: int,
) -> batch.BatchResult:
  """The batch method, its candidates drawn a block at a time."""
  num_candidates = settings.num_candidates
  num_blocks = -(-num_candidates // _MAX_BLOCK)
  size = -(-num_candidates // num_blocks)
  ids = first_id + jnp.arange(num_blocks * size, dtype=jnp.uint32)
  blocks = jax.lax.map(
    lambda block: sampler.draw(hidden, keys, block),
    ids.reshape(num_blocks, size),
  )  # [blocks, R, size, K]
  candidates = jnp.moveaxis(blocks, 0, 1)
  candidates = candidates.reshape(len(keys), -1, blocks.shape[-1])
  return batch.choose(
    candidates[:, :num_candidates],
    jnp.asarray(batch.log_weights(settings.temperature, num_candidates)),
    choice_keys,
  )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(
      f"{name} is {value!r}; choose one of {', '.join(choices)}."
    )
