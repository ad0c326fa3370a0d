"""Accuracy and collision of the batch method, for many temperatures at once.

The candidates of a position do not depend on the temperature, and given them
the method's choice is a known distribution. So one set of draws serves every
temperature and every smaller number of candidates, and nothing is lost to the
noise of the choice: accuracy is the weight on the candidates that are right,
collision the chance that two independent sets of candidates give the same.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from calm_jax.data.batch import Batch, chunk_targets
from calm_jax.evaluation.positions import NUM_ORDERS, select_positions
from calm_jax.evaluation.windows import COUNT, Columns
from calm_jax.randomness import position_keys, stream_key
from calm_jax.sampling import rows
from calm_jax.sampling.batch import log_weights
from calm_jax.sampling.blocks import map_blocks

_MAX_PAIRS = 1 << 21  # pairs of candidates that are compared at once


def batch_method_columns(
  sampler_fn: Callable[[Any], Any],
  params: Any,
  batches: Iterable[Batch],
  *,
  temperatures: Sequence[float],
  candidate_counts: Sequence[int],
  positions: str,
  seed: int,
  mesh: Mesh | None = None,
) -> dict[tuple[float, int], Columns]:
  """Scores the batch method at each temperature and number of candidates.

  Args:
    sampler_fn: binds parameters of a next-vector model.
    params: what it takes.
    batches: rows.
    temperatures: T in (0, 1].
    candidate_counts: N_b, each.
    positions: see `select_positions`.
    seed: of the draws.
    mesh: over which rows are shared out; all its processes call this together.

  Returns:
    For each pair of T and N_b the sums of each window, [W]: `count`,
    `accuracy_n` and `collision_n` for n = 1 … min(4, K).

  Raises:
    ValueError: if T is outside (0, 1] or needs more candidates.
  """
  with rows.on(mesh):
    pairs = [(t, n) for t in temperatures for n in candidate_counts]
    tables = {pair: log_weights(*pair) for pair in pairs}
    key = stream_key(seed, "candidates")
    shared = (params, key, [tables[pair] for pair in pairs])
    counts = tuple(n for _, n in pairs)
    parts = []
    for batch in batches:
      placed = rows.place(batch, mesh)
      found = _score(sampler_fn, shared, placed, counts, positions, mesh)
      num_rows = len(batch.row_ids)  # behind them only what fills the devices
      parts.append(jax.tree.map(lambda x, n=num_rows: np.asarray(x)[:n], found))
    result = {}
    for i, pair in enumerate(pairs):
      names = parts[0][i]
      result[pair] = {
        name: np.concatenate([part[i][name] for part in parts]).astype(float)
        for name in names
      }
    return result


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _score(
  sampler_fn: Callable[[Any], Any],
  shared: tuple[Any, jax.Array, list[jax.Array]],
  batch: Batch,
  counts: tuple[int, ...],
  protocol: str,
  mesh: Mesh | None,
) -> list[dict[str, jax.Array]]:
  """Sums for each pair of a table and a number of candidates, [B] each."""
  call = functools.partial(_score_rows, sampler_fn, counts, protocol)
  return rows.everywhere(rows.over_rows(call, mesh)(shared, batch), mesh)


def _score_rows(
  sampler_fn: Callable[[Any], Any],
  counts: tuple[int, ...],
  protocol: str,
  shared: tuple[Any, jax.Array, list[jax.Array]],
  batch: Batch,
) -> list[dict[str, jax.Array]]:
  params, key, tables = shared
  sampler = sampler_fn(params)
  _, length, chunk_size = batch.tokens.shape
  positions = select_positions(
    protocol, row_length=length * chunk_size, chunk_size=chunk_size
  )
  chunk_ids = positions.chunk_ids
  num_candidates = max(counts)
  num_orders = min(NUM_ORDERS, chunk_size)
  hidden = sampler.hidden(batch.tokens, batch.segment_ids)[:, chunk_ids]
  keys = position_keys(key, batch.row_ids, chunk_ids.astype(np.uint32))
  targets = chunk_targets(batch, sampler.closing_id)
  labels = targets.tokens[:, chunk_ids + 1]
  sample_ids = jnp.arange(2 * num_candidates, dtype=jnp.uint32)

  def call(block):
    hidden, keys, labels = block
    drawn = sampler.draw(hidden, keys, sample_ids)  # [p, 2·N, K]
    drawn = drawn.reshape(-1, 2, num_candidates, chunk_size)
    found = [
      _terms(drawn[:, :, :n], labels, table, num_orders)
      for n, table in zip(counts, tables, strict=True)
    ]
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *found)

  size = max(1, _MAX_PAIRS // num_candidates**2)
  accuracy, collision = map_blocks(
    call, size, (hidden, keys, labels), num_axes=2
  )
  is_scored = positions.is_scored(batch.token_mask, targets.mask)
  weights = is_scored.astype(jnp.float32)[..., None, None]
  accuracy, collision = (
    jnp.sum(it * weights, axis=1) for it in (accuracy, collision)
  )  # [B, pairs, n]
  return [
    {
      COUNT: jnp.sum(is_scored, axis=-1),
      **{
        f"{name}_{n + 1}": it[:, i, n]
        for name, it in (("accuracy", accuracy), ("collision", collision))
        for n in range(num_orders)
      },
    }
    for i in range(len(counts))
  ]


def _terms(
  drawn: jax.Array, labels: jax.Array, table: jax.Array, num_orders: int
) -> tuple[jax.Array, jax.Array]:
  """Accuracy and collision given two sets of candidates.

  Args:
    drawn: [p, 2, N, K] int32.
    labels: [p, K] int32.
    table: [N+1] float32, log of the weight of each count.
    num_orders: n goes from 1 to this.

  Returns:
    Accuracy and collision, [p, n] float32 each.
  """
  same = drawn[:, :, :, None] == drawn[:, :, None]  # [p, 2, N, N, K]
  counts = jnp.sum(jnp.all(same, axis=-1), axis=-1)  # [p, 2, N]
  logs = table[counts]
  most = jnp.max(counts, axis=-1, keepdims=True)
  is_fallback = jnp.all(jnp.isneginf(logs), axis=-1, keepdims=True)
  most_frequent = jnp.where(counts == most, 0.0, -jnp.inf)
  logs = jnp.where(is_fallback, most_frequent, logs)
  # A chunk that came up c times stands there c times and shares its weight.
  share = jax.nn.softmax(logs - jnp.log(counts), axis=-1)  # [p, 2, N]
  right = drawn == labels[:, None, None]  # [p, 2, N, K]
  equal = drawn[:, 0, :, None] == drawn[:, 1, None]  # [p, N, N, K]
  accuracy, collision = [], []
  for n in range(1, num_orders + 1):
    is_right = jnp.all(right[..., :n], axis=-1)
    accuracy.append(jnp.sum(share * is_right, axis=-1).mean(axis=-1))
    is_equal = jnp.all(equal[..., :n], axis=-1).astype(jnp.float32)
    collision.append(
      jnp.einsum("pi,pij,pj->p", share[:, 0], is_equal, share[:, 1])
    )
  return jnp.stack(accuracy, axis=-1), jnp.stack(collision, axis=-1)
