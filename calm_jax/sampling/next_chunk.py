"""One chunk a row at a temperature, by whichever method."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.sampling import agreement, batch
from calm_jax.sampling.exact import sample_exact
from calm_jax.sampling.sampler import Sampler
from calm_jax.sampling.settings import check_method
from calm_jax.sampling.temperature import Exponent, split_temperature

_MAX_BLOCK = 256  # candidates of a row that exist as latents at once
# Blocks of 8 candidates drawn at once where a draw too many costs less than a
# round more: all that one row may need.
_MIN_SLOTS = 32
_FALLBACK_IDS = 2**30  # candidates after a spent budget are fresh draws


@dataclasses.dataclass(kw_only=True, frozen=True)
class TemperatureSettings:
  """How a model without likelihoods is sampled colder."""

  temperature: float = 1.0  # T in (0, 1]
  # batch | exact | hybrid: at T = 1/n, n ≤ 16, exact on the batch, if it can,
  # else batch
  method: str = "batch"
  num_candidates: int = 200  # N_b, of the batch and hybrid methods
  max_draws: int = 20_000  # budget of the exact method, draws a chunk
  when_spent: str = "stop"  # stop | batch: what then becomes of the row

  def __post_init__(self):
    exponent = split_temperature(self.temperature)
    check_method(
      self.method, self.when_spent, self.num_candidates, self.max_draws
    )
    if self.method == "exact" and self.max_draws < exponent.whole:
      raise ValueError(
        f"max_draws is {self.max_draws}; at temperature {self.temperature} the"
        f" exact method compares {exponent.whole} draws with each other, and"
        " commonly needs thousands."
      )
    if self.uses_candidates:
      batch.log_weights(self.temperature, self.num_candidates)

  @property
  def uses_candidates(self) -> bool:
    return self.method != "exact" or self.when_spent == "batch"

  def bind(self) -> "Temperature":
    """The settings for use in compiled programs."""
    exponent = split_temperature(self.temperature)
    return Temperature(
      exponent=Exponent(
        np.int32(exponent.whole), np.float32(exponent.fraction)
      ),
      max_draws=np.int32(self.max_draws),
      log_weights=batch.log_weights(self.temperature, self.num_candidates)
      if self.uses_candidates
      else None,
      method=self.method,
      when_spent=self.when_spent,
    )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=("exponent", "max_draws", "log_weights"),
  meta_fields=("method", "when_spent"),
)
@dataclasses.dataclass(kw_only=True, frozen=True)
class Temperature:
  """`TemperatureSettings` as compiled programs take them.

  What is a number alone is an argument: another temperature or budget compiles
  nothing. Another method or number of candidates is another program.
  """

  exponent: Exponent  # 1/T, [] int32 and [] float32
  max_draws: np.ndarray | jax.Array  # [] int32
  log_weights: (
    np.ndarray | jax.Array | None
  )  # [N_b+1] float32; None: no candidates needed
  method: str
  when_spent: str


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
  temperature: Temperature,
  is_done: jax.Array | None = None,
) -> NextChunk:
  """Draws the next chunk of each row.

  Args:
    sampler: draws at T = 1, or, if it knows probabilities, at a temperature of
      its own; then the one here is not read.
    hidden: [R, D].
    keys: [R] typed keys of the positions, for the draws.
    choice_keys: [R], for what is chosen among them.
    temperature: and method.
    is_done: [R] bool, rows whose chunk nobody reads; None: none.

  Returns:
    The chunks.
  """
  never = jnp.zeros(len(keys), bool)
  is_done = never if is_done is None else is_done
  call = (sampler, hidden, keys, choice_keys, temperature)

  def plain() -> NextChunk:
    """One draw is all: T = 1 is the model's own distribution."""
    tokens = sampler.draw(hidden, keys, jnp.zeros(1, jnp.uint32))[:, 0]
    return NextChunk(tokens, jnp.ones(len(keys), jnp.int32), never, never)

  if sampler.probabilities is not None:
    return plain()
  whole, fraction = temperature.exponent
  if temperature.method == "exact":
    colder = functools.partial(_exact, *call, is_done)
  else:
    # With a fraction, cutting the exact method off would favour quick chunks.
    colder = functools.partial(
      jax.lax.cond,
      (fraction == 0) & (whole <= agreement.MAX_WHOLE),
      functools.partial(_agree, *call, is_done),
      functools.partial(_choose, *call),
    )
  return jax.lax.cond((whole == 1) & (fraction == 0), plain, colder)


def _exact(
  sampler: Sampler,
  hidden: jax.Array,
  keys: jax.Array,
  choice_keys: jax.Array,
  temperature: Temperature,
  is_done: jax.Array,
) -> NextChunk:
  found = sample_exact(
    lambda sample_ids: sampler.draw(hidden, keys, sample_ids),
    choice_keys,
    temperature.exponent,
    max_draws=temperature.max_draws,
    is_done=is_done,
  )
  is_spent = ~found.is_accepted
  exact = NextChunk(
    found.tokens, found.num_draws, is_spent, jnp.zeros_like(is_spent)
  )
  if temperature.when_spent == "stop":
    return exact

  def replace() -> NextChunk:
    chosen = _choose(
      sampler,
      hidden,
      keys,
      choice_keys,
      temperature,
      first_id=_FALLBACK_IDS,
    )
    return NextChunk(
      jnp.where(is_spent[:, None], chosen.tokens, exact.tokens),
      exact.num_draws + is_spent * chosen.num_draws,
      is_spent,
      is_spent & chosen.is_fallback,
    )

  return jax.lax.cond(jnp.any(is_spent), replace, lambda: exact)


def _agree(
  sampler: Sampler,
  hidden: jax.Array,
  keys: jax.Array,
  choice_keys: jax.Array,
  temperature: Temperature,
  is_done: jax.Array,
) -> NextChunk:
  """The batch or hybrid method at T = 1/n."""
  whole = temperature.exponent.whole
  num_candidates = len(temperature.log_weights) - 1
  if temperature.method == "hybrid":
    tries = agreement.consecutive_tries(len(keys), num_candidates, whole)
  else:
    try_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(choice_keys)
    tries = agreement.random_tries(try_keys, num_candidates, whole)

  def draw_fn(rows: jax.Array, sample_ids: jax.Array) -> jax.Array:
    draw = lambda hidden, key, ids: sampler.draw(hidden[None], key[None], ids)
    return jax.vmap(draw)(hidden[rows], keys[rows], sample_ids)[:, 0]

  def agree(min_slots: int) -> agreement.AgreementResult:
    return agreement.sample_agreement(
      draw_fn,
      tries,
      choice_keys,
      temperature.log_weights,
      is_done=is_done,
      min_slots=min_slots,
    )

  found = jax.lax.platform_dependent(
    cpu=functools.partial(agree, 1),
    default=functools.partial(agree, _MIN_SLOTS),
  )
  never = jnp.zeros(len(keys), bool)
  return NextChunk(found.tokens, found.num_draws, never, found.is_fallback)


def _choose(
  sampler: Sampler,
  hidden: jax.Array,
  keys: jax.Array,
  choice_keys: jax.Array,
  temperature: Temperature,
  *,
  first_id: int = 0,
) -> NextChunk:
  """The batch method, its candidates drawn a block at a time."""
  num_candidates = len(temperature.log_weights) - 1
  num_blocks = -(-num_candidates // _MAX_BLOCK)
  size = -(-num_candidates // num_blocks)
  ids = first_id + jnp.arange(num_blocks * size, dtype=jnp.uint32)
  blocks = jax.lax.map(
    lambda block: sampler.draw(hidden, keys, block),
    ids.reshape(num_blocks, size),
  )  # [blocks, R, size, K]
  candidates = jnp.moveaxis(blocks, 0, 1)
  candidates = candidates.reshape(len(keys), -1, blocks.shape[-1])
  chosen = batch.choose(
    candidates[:, :num_candidates], temperature.log_weights, choice_keys
  )
  num_draws = jnp.full(len(keys), num_candidates, jnp.int32)
  return NextChunk(
    chosen.tokens, num_draws, jnp.zeros(len(keys), bool), chosen.is_fallback
  )
