"""The suite of generation: tokens a second at a temperature."""

import collections
import functools
import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.random_model import (
  MODEL_SIZES,
  RandomModel,
  make_config,
  random_model,
)
from benchmarks.timing import Roofline, Row, Version, compare_calls
from calm_jax.families import family_of
from calm_jax.randomness import stream_key
from calm_jax.sampling.context import next_slot
from calm_jax.sampling.generate import RowKeys, advance, row_keys, start
from calm_jax.sampling.next_chunk import TemperatureSettings
from calm_jax.sampling.prompt import Prompts


class _Size(NamedTuple):
  num_rows: int
  num_prompt_chunks: int
  num_chunks: int  # new ones
  num_candidates: int  # N_b
  agreements: tuple[float, ...]  # shares of pairs of candidates


_SIZES = {
  "tiny": _Size(2, 2, 3, 8, (0.5,)),
  "cpu": _Size(4, 16, 8, 200, (0.5, 0.1, 0.02)),
  "accelerator": _Size(16, 64, 32, 200, (0.5, 0.1, 0.02)),
}
_TEMPERATURE = 0.5


def run(
  size: str, seed: int, roofline: Roofline, seconds: float
) -> Iterator[Row]:
  """Yields a row for every method and every kind of distribution."""
  del roofline
  letters = _SIZES[size]
  key = stream_key(seed, "benchmark")
  options = {
    "num_chunks": letters.num_prompt_chunks + letters.num_chunks,
    "num_rows": letters.num_rows,
  }
  config = make_config(MODEL_SIZES[size], **options)
  plain = make_config(
    MODEL_SIZES[size], vocabulary_implementation="reference", **options
  )
  shape = (letters.num_rows, letters.num_prompt_chunks, config.model.chunk_size)
  prompts = Prompts(
    np.asarray(jax.random.randint(key, shape, 2, config.model.vocabulary.size)),
    np.full(letters.num_rows, letters.num_prompt_chunks, np.int32),
  )
  for agreement in letters.agreements:
    model = random_model(config, key, agreement)
    num_tokens = math.prod((letters.num_rows, letters.num_chunks, shape[-1]))
    settings = {"num_chunks": letters.num_chunks, "seed": seed}
    versions = {
      "counted on the host": functools.partial(
        count_on_host,
        model._replace(
          config=plain, sampler_fn=family_of(plain.model).sampler_fn(plain)
        ),
        prompts,
        num_candidates=letters.num_candidates,
        **settings,
      )
    }
    for method in ("batch", "hybrid"):
      versions[method] = functools.partial(
        generate,
        model,
        prompts,
        TemperatureSettings(
          temperature=_TEMPERATURE,
          method=method,
          num_candidates=letters.num_candidates,
        ),
        **settings,
      )
    versions["T = 1, one draw"] = functools.partial(
      generate, model, prompts, TemperatureSettings(), **settings
    )
    yield from compare_calls(
      f"T = {_TEMPERATURE}, {100 * agreement:.0f} % of pairs agree",
      {
        name: Version(call, num_tokens=num_tokens)
        for name, call in versions.items()
      },
      seconds,
    )


def generate(
  model: RandomModel,
  prompts: Prompts,
  settings: TemperatureSettings,
  *,
  num_chunks: int,
  seed: int,
) -> jax.Array:
  """The package's own way; returns the new chunks, [R, C, K]."""
  rows = start(model.sampler_fn, model.params, prompts, num_chunks)
  keys = _keys(seed, len(prompts.tokens))
  rows = advance(
    model.sampler_fn,
    model.params,
    rows,
    keys,
    jnp.int32(num_chunks),
    settings.bind(),
  )
  return rows.tokens


def count_on_host(
  model: RandomModel,
  prompts: Prompts,
  *,
  num_chunks: int,
  num_candidates: int,
  seed: int,
) -> np.ndarray:
  """The reference: the batch method (paper Alg. 2) as one would write it first.

  A Python loop over chunks. In each turn one compiled function draws all N_b
  latents of all rows at once and decodes them over the whole vocabulary, the
  logits of a block of 4096 tokens being materialised; the chunks go to the
  host, where each row counts its own in a `Counter` and draws one by the weight
  C(c, n), n = 2, or 1 where nothing came up twice; a second compiled function
  reads the chosen chunks with a key/value cache. This is what the authors' code
  does, which keeps a cache too.

  Args:
    model: whose sampler materialises logits.
    prompts: R of them, equally long.
    num_chunks: C, new ones.
    num_candidates: N_b.
    seed: of all draws.

  Returns:
    The new chunks, [R, C, K].
  """
  num_rows = len(prompts.tokens)
  rows = start(model.sampler_fn, model.params, prompts, num_chunks)
  cache, hidden, position = rows.cache, rows.hidden, rows.num_chunks
  num_read = rows.num_chunks
  keys = _keys(seed, num_rows).noise
  generator = random.Random(seed)
  found = []
  for num_new in range(num_chunks):
    candidates = _draw(
      model.sampler_fn, model.params, hidden, keys, position, num_candidates
    )
    chosen = [
      _choose(row, round(1 / _TEMPERATURE), generator)
      for row in np.asarray(candidates).tolist()
    ]
    found.append(chosen)
    hidden, cache = _read(
      model.sampler_fn,
      model.params,
      np.array(chosen, np.int32),
      position,
      cache,
      num_read,
      num_chunks,
      num_new,
    )
    position = position + 1
  return np.array(found, np.int32).swapaxes(0, 1)


def _choose(
  candidates: list[list[int]], whole: int, generator: random.Random
) -> tuple[int, ...]:
  counts = collections.Counter(map(tuple, candidates))
  for n in range(whole, 0, -1):
    weights = {chunk: math.comb(c, n) for chunk, c in counts.items() if c >= n}
    if weights:
      break
  return generator.choices(list(weights), weights=list(weights.values()))[0]


@functools.partial(jax.jit, static_argnums=(0, 5))
def _draw(sampler_fn, params, hidden, keys, position, num_candidates):
  keys = jax.vmap(jax.random.fold_in)(keys, position)
  ids = jnp.arange(num_candidates, dtype=jnp.uint32)
  return sampler_fn(params).draw(hidden, keys, ids)


@functools.partial(jax.jit, static_argnums=(0, 6), donate_argnums=4)
def _read(
  sampler_fn, params, tokens, position, cache, num_read, num_room, num_new
) -> tuple[Any, Any]:
  slot, mask = next_slot(cache, num_read, num_room, num_new)
  hidden, cache = sampler_fn(params).step(
    tokens[:, None], position[:, None], cache, mask, slot
  )
  return hidden[:, 0], cache


def _keys(seed: int, num_rows: int) -> RowKeys:
  """Rows that draw apart, as continuations of one prompt do."""
  ids = np.arange(num_rows, dtype=np.uint32)
  return row_keys(seed, np.zeros_like(ids), ids)
