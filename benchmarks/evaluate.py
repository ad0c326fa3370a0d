"""The suite of evaluation: tokens scored a second, with chunks of two."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.random_model import (
  MODEL_SIZES,
  RandomModel,
  make_config,
  random_batch,
  random_model,
)
from benchmarks.timing import Roofline, Row, Version, compare_calls
from calm_jax.data.batch import Batch
from calm_jax.evaluation.positions import NUM_ORDERS, select_positions
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from calm_jax.randomness import position_keys, stream_key


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
    in_turn = functools.partial(score_in_turn, model, batch, settings, chosen)
    versions = {
      "position by position": Version(
        functools.partial(in_turn, is_cached=False),
        num_tokens=num_tokens * len(chosen),
      ),
      "the same with a cache": Version(
        in_turn, num_tokens=num_tokens * len(chosen)
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


def score_in_turn(
  model: RandomModel,
  batch: Batch,
  settings: PredictionSettings,
  chunk_ids: np.ndarray,
  *,
  is_cached: bool = True,
) -> dict[str, np.ndarray]:
  """The reference: BrierLM's terms of chunks of two, a position at a time.

  In a Python loop over positions: a compiled function draws the S samples after
  the true context, and those after the next true chunk; the host finds the
  samples that drew the same chunk; for each such chunk a compiled function
  reads it after the context and draws S samples from there; the host compares.
  No path is followed on which a sample is alone.

  With a cache, rows are read once, ahead of the loop. Without one, as in the
  plainest program, every draw reads its row anew, what comes after the position
  included, so that one compiled function serves all positions.

  Args:
    model: with chunks of two tokens.
    batch: rows without masked tokens.
    settings: number of samples and seed.
    chunk_ids: the positions.
    is_cached: whether rows are read once.

  Returns:
    Sums over the positions of each row, `accuracy_n` and `collision_n` [B].
  """
  reader = (_CachedReader if is_cached else _Reader)(model, batch)
  draw = functools.partial(
    _draw, model.sampler_fn, model.params, settings.num_samples
  )
  noise = stream_key(settings.seed, "evaluation_noise")
  path = stream_key(settings.seed, "evaluation_path")
  others = ~np.eye(settings.num_samples, dtype=bool)
  names = [
    f"{kind}_{n + 1}"
    for kind in ("accuracy", "collision")
    for n in range(NUM_ORDERS)
  ]
  sums = {name: np.zeros(len(batch.tokens)) for name in names}
  for row in range(len(batch.tokens)):
    for chunk in chunk_ids.tolist():
      first, second = (
        np.asarray(draw(reader.after(row, place), _key(noise, row, place)))
        for place in (chunk, chunk + 1)
      )
      is_right = [
        np.cumprod(drawn == batch.tokens[row, chunk + i], axis=-1)
        for i, drawn in enumerate((first, second), start=1)
      ]
      right = [x.mean(axis=0) for x in is_right]
      accuracy = [*right[0], *(right[0][-1] * right[1])]
      key = jax.random.fold_in(_key(path, row, chunk), 0)
      ahead = np.zeros_like(first)
      for drawn in np.unique(first, axis=0):
        members = (first == drawn).all(axis=-1)
        if members.sum() > 1:
          new = draw(reader.after(row, chunk, drawn), key)
          ahead[members] = np.asarray(new)[members]
      both = np.concatenate([first, ahead], axis=-1)  # [S, 4]
      is_same = np.cumprod(both[:, None] == both[None], axis=-1)
      collision = is_same[others].mean(axis=0)
      for n in range(NUM_ORDERS):
        sums[f"accuracy_{n + 1}"][row] += accuracy[n]
        sums[f"collision_{n + 1}"][row] += collision[n]
  return sums


class _Reader:
  """Reads a row anew for each hidden state."""

  def __init__(self, model: RandomModel, batch: Batch):
    self._model, self._batch = model, batch

  def after(self, row: int, chunk: int, drawn: np.ndarray | None = None):
    """[D] after chunks 0 … chunk of a row, and after one drawn chunk more."""
    tokens, segments = self._batch.tokens[row], self._batch.segment_ids[row]
    if drawn is not None:
      chunk += 1
      tokens = tokens.copy()
      tokens[chunk] = drawn
    fn, params = self._model.sampler_fn, self._model.params
    return _read(fn, params, tokens[None], segments[None])[0][0, chunk]


class _CachedReader:
  """Reads all rows once, and then drawn chunks only."""

  def __init__(self, model: RandomModel, batch: Batch):
    self._model = model
    self._hidden, self._context = _read(
      model.sampler_fn, model.params, batch.tokens, batch.segment_ids
    )

  def after(self, row: int, chunk: int, drawn: np.ndarray | None = None):
    """As of `_Reader`."""
    if drawn is None:
      return self._hidden[row, chunk]
    fn, params = self._model.sampler_fn, self._model.params
    return _branch(
      fn, params, self._context, drawn, np.int32(row), np.int32(chunk)
    )


@functools.partial(jax.jit, static_argnums=0)
def _read(sampler_fn, params, tokens, segment_ids):
  return sampler_fn(params).read(tokens, segment_ids)


@functools.partial(jax.jit, static_argnums=0)
def _branch(sampler_fn, params, context, drawn, row, chunk):
  own = jax.tree.map(
    lambda x: jax.lax.dynamic_index_in_dim(x, row, axis=1), context.cache
  )
  segments = context.segment_ids[row][None]
  context = context._replace(cache=own, segment_ids=segments)
  hidden = sampler_fn(params).branch(
    drawn[None, None, None], chunk[None, None], context
  )
  return hidden[0, 0]


@functools.partial(jax.jit, static_argnums=(0, 2))
def _draw(sampler_fn, params, num_samples, hidden, key):
  ids = jnp.arange(num_samples, dtype=jnp.uint32)
  return sampler_fn(params).draw(hidden[None], key[None], ids)[0]


def _key(stream, row, chunk):
  ids = np.array([row], np.uint32), np.array([chunk], np.uint32)
  return position_keys(stream, *ids)[0, 0]
