"""The suite of evaluation: tokens scored a second, with chunks of two."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.data.batch import Batch
from calm_jax.evaluation.positions import NUM_ORDERS, select_positions
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from calm_jax.randomness import position_keys, stream_key
from calm_jax.workflows.benchmark_models import (
  MODEL_SIZES,
  RandomModel,
  make_config,
  random_model,
)
from calm_jax.workflows.benchmark_timing import (
  Roofline,
  Row,
  Version,
  compare_calls,
)


class _Size(NamedTuple):
  num_rows: int
  num_chunks: int
  num_samples: int  # S
  stride: int  # between the positions that the loop scores
  agreements: tuple[float, ...]  # shares of pairs of samples


_SIZES = {
  "tiny": _Size(2, 6, 3, 1, (0.5,)),
  "cpu": _Size(4, 256, 16, 16, (0.5, 0.1)),
  "accelerator": _Size(16, 1024, 16, 64, (0.5, 0.1)),
}
_CHUNK_SIZE = 2


def run(
  size: str, seed: int, roofline: Roofline, seconds: float
) -> Iterator[Row]:
  """Yields a row for every version and every kind of distribution."""
  del roofline
  letters = _SIZES[size]
  key = stream_key(seed, "benchmark")
  config = make_config(
    MODEL_SIZES[size],
    chunk_size=_CHUNK_SIZE,
    num_chunks=letters.num_chunks,
    num_rows=letters.num_rows,
  )
  batch = random_batch(key, letters.num_rows, letters.num_chunks, config)
  settings = PredictionSettings(num_samples=letters.num_samples, seed=seed)
  positions = select_positions(
    "paper", row_length=config.data.row_length, chunk_size=_CHUNK_SIZE
  )
  chosen = positions.chunk_ids[:: letters.stride]
  num_tokens = letters.num_rows * _CHUNK_SIZE
  for agreement in letters.agreements:
    model = random_model(config, key, agreement)
    versions = {
      "position by position": Version(
        functools.partial(score_in_turn, model, batch, settings, chosen),
        num_tokens=num_tokens * len(chosen),
      ),
      "launch.evaluate": Version(
        functools.partial(
          prediction_columns,
          model.sampler_fn,
          model.params,
          [batch],
          settings,
        ),
        num_tokens=num_tokens * len(positions.chunk_ids),
      ),
    }
    name = f"K = {_CHUNK_SIZE}, {100 * agreement:.0f} % of pairs agree"
    yield from compare_calls(name, versions, seconds)


def random_batch(key, num_rows, num_chunks, config) -> Batch:
  """Rows of one document each, nothing masked."""
  shape = (num_rows, num_chunks, config.model.chunk_size)
  tokens = jax.random.randint(key, shape, 2, config.model.vocabulary.size)
  return Batch(
    tokens=np.asarray(tokens, np.int32),
    token_mask=np.ones(shape, bool),
    segment_ids=np.zeros(shape[:2], np.int32),
    row_ids=np.arange(num_rows, dtype=np.uint32),
  )


def score_in_turn(
  model: RandomModel,
  batch: Batch,
  settings: PredictionSettings,
  chunk_ids: np.ndarray,
) -> dict[str, np.ndarray]:
  """The reference: BrierLM's terms of chunks of two, a position at a time.

  Rows are read once, with a cache. Then, in a Python loop over positions: a
  compiled function draws the S samples after the true context, and those after
  the next true chunk; the host finds the samples that drew the same chunk; for
  each such chunk a compiled function reads it after the context and draws S
  samples from there; the host compares. No path is followed on which a sample
  is alone.

  Args:
    model: with chunks of two tokens.
    batch: rows without masked tokens.
    settings: number of samples and seed.
    chunk_ids: the positions.

  Returns:
    Sums over the positions of each row, `accuracy_n` and `collision_n` [B].
  """
  fn, params = model.sampler_fn, model.params
  hidden, context = _read(fn, params, batch.tokens, batch.segment_ids)
  noise = stream_key(settings.seed, "evaluation_noise")
  path = stream_key(settings.seed, "evaluation_path")
  num_samples = settings.num_samples
  others = ~np.eye(num_samples, dtype=bool)
  names = [
    f"{kind}_{n + 1}"
    for kind in ("accuracy", "collision")
    for n in range(NUM_ORDERS)
  ]
  sums = {name: np.zeros(len(batch.tokens)) for name in names}
  for row in range(len(batch.tokens)):
    for chunk in chunk_ids.tolist():
      place = np.int32(row), np.int32(chunk), num_samples
      first = np.asarray(_draw(fn, params, hidden, noise, *place))
      place = np.int32(row), np.int32(chunk + 1), num_samples
      second = np.asarray(_draw(fn, params, hidden, noise, *place))
      is_right = [
        np.cumprod(drawn == batch.tokens[row, chunk + i], axis=-1)
        for i, drawn in enumerate((first, second), start=1)
      ]
      right = [x.mean(axis=0) for x in is_right]
      accuracy = [*right[0], *(right[0][-1] * right[1])]
      ahead = np.zeros_like(first)
      for drawn in np.unique(first, axis=0):
        members = (first == drawn).all(axis=-1)
        if members.sum() > 1:
          place = np.int32(row), np.int32(chunk), num_samples
          new = _follow(fn, params, context, drawn, path, *place)
          ahead[members] = np.asarray(new)[members]
      both = np.concatenate([first, ahead], axis=-1)  # [S, 4]
      is_same = np.cumprod(both[:, None] == both[None], axis=-1)
      collision = is_same[others].mean(axis=0)
      for n in range(NUM_ORDERS):
        sums[f"accuracy_{n + 1}"][row] += accuracy[n]
        sums[f"collision_{n + 1}"][row] += collision[n]
  return sums


@functools.partial(jax.jit, static_argnums=0)
def _read(sampler_fn, params, tokens, segment_ids):
  return sampler_fn(params).read(tokens, segment_ids)


@functools.partial(jax.jit, static_argnums=(0, 6))
def _draw(sampler_fn, params, hidden, key, row, chunk, num_samples):
  key = position_keys(key, *_ids(row, chunk))[0]  # [1]
  ids = jnp.arange(num_samples, dtype=jnp.uint32)
  return sampler_fn(params).draw(hidden[row, chunk][None], key, ids)[0]


@functools.partial(jax.jit, static_argnums=(0, 7))
def _follow(sampler_fn, params, context, drawn, key, row, chunk, num_samples):
  sampler = sampler_fn(params)
  own = jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, row, axis=1), context.cache
  )
  segments = context.segment_ids[row][None]
  context = context._replace(cache=own, segment_ids=segments)
  hidden = sampler.branch(drawn[None, None, None], chunk[None, None], context)
  key = jax.vmap(jax.random.fold_in, (0, None))(
    position_keys(key, *_ids(row, chunk))[0], 0
  )
  ids = jnp.arange(num_samples, dtype=jnp.uint32)
  return sampler.draw(hidden[0], key, ids)[0]


def _ids(row, chunk):
  return row.astype(jnp.uint32)[None], chunk.astype(jnp.uint32)[None]
