"""How well a model predicts what comes next, window by window (paper §4)."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from calm_jax.data.batch import Batch, chunk_targets
from calm_jax.evaluation.brier import check_samples
from calm_jax.evaluation.donors import Donors, Loan
from calm_jax.evaluation.positions import (
  NUM_ORDERS,
  Positions,
  select_positions,
)
from calm_jax.evaluation.rollout import (
  Draws,
  accuracy_terms,
  collision_terms,
  needed_chunks,
)
from calm_jax.evaluation.windows import (
  COUNT,
  LAST_CHUNK,
  PERMUTED,
  Columns,
)
from calm_jax.kernels.distance import Distance
from calm_jax.layers.activation import position_partition
from calm_jax.losses.energy import energy_loss
from calm_jax.randomness import position_keys, sample_keys, stream_key
from calm_jax.sampling import rows
from calm_jax.sampling.sampler import SamplerFn

_NUM_TARGETS = 100  # M of the energy loss
_MAX_PATHS = 256  # tokens of roll-outs that a row reads at once
_SAME = "same_document" + PERMUTED  # column of positions so predicted


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictionSettings:
  """What is measured."""

  num_samples: int = 16  # S, draws a position
  positions: str = "paper"  # or grid:8; see `select_positions`
  permuted: bool = False  # also predict from another window's context
  last_chunk: bool = False  # also predict from the last chunk alone
  noise_scale: float = 1.0  # next-vector: factor on the head's noise
  seed: int = 0

  def __post_init__(self):
    check_samples(self.num_samples, noise_scale=self.noise_scale)


class _Predictions(NamedTuple):
  """What a model said at all needed positions of a batch."""

  hidden: jax.Array  # [B, U, D]
  latents: jax.Array | None  # [B, U, S, Z]; None: a token model
  tokens: jax.Array  # [B, U, S, K]


def prediction_columns(
  sampler_fn: SamplerFn,
  params: Any,
  batches: Iterable[Batch],
  settings: PredictionSettings,
  segment_sampler_fn: SamplerFn | None = None,
  mesh: Mesh | None = None,
) -> Columns:
  """Scores a model at the chosen positions of every window.

  Controls are the same model with less to go by. Permuted contexts: each window
  is scored with what was predicted from the nearest window before it that is of
  other documents (see `Donors`; the first ones take the last window of all),
  which knows as much about language and nothing about this text. Where there is
  none it is the window before, and `same_document_permuted` counts it.
  Last chunk: the context is cut to the chunk before the scored one.

  Args:
    sampler_fn: binds parameters, see `Family.sampler_fn`.
    params: what it takes.
    batches: rows; rows that are only padding stand last.
    settings: what is measured.
    segment_sampler_fn: binds the same model with attention kept inside
      segments, for the control of the last chunk.
    mesh: over which rows are shared out; all its processes call this together.

  Returns:
    Sums over the scored positions of each window, [W] float64: `count`,
    `accuracy_n` and `collision_n` (see `rollout`), `energy_loss` (next-vector
    models: that of the sampled latents against the posterior of the chunk that
    follows) or `cross_entropy` (token models: nats of the next token), and the
    controls', of which permuted collisions have none; `same_document_permuted`
    is the count where the context came from the same document, else 0.

  Raises:
    ValueError: if positions do not fit, or a control needs a second window.
  """
  with rows.on(mesh):
    parts: list[dict[str, np.ndarray]] = []
    donors, carried = Donors(), None
    waiting: list[tuple[int, Batch, Loan]] = []
    for on_host in batches:
      batch = rows.place(on_host, mesh)
      sums, predictions = score(sampler_fn, params, batch, settings, mesh)
      if settings.last_chunk:
        apart = rows.place(_chunks_apart(on_host, settings), mesh)
        alone, _ = score(segment_sampler_fn, params, apart, settings, mesh)
        alone.pop(COUNT)
        sums |= {name + LAST_CHUNK: value for name, value in alone.items()}
      if settings.permuted:
        loan = donors.choose(on_host.token_mask)
        if carried is None:  # nobody borrows it
          carried = _keep(predictions, predictions, np.full(2, 2), mesh)
        lent = _lend(carried, predictions, _padded(loan.lenders, batch), mesh)
        sums |= _score_permuted(sampler_fn, params, batch, lent, settings, mesh)
        carried = _keep(carried, predictions, loan.kept, mesh)
        if loan.is_same.any():
          waiting.append((len(parts), on_host, loan))
      # Arrays of its own, because some rows may get other sums below.
      part = {name: np.array(it) for name, it in jax.device_get(sums).items()}
      if settings.permuted:
        part[_SAME] = part[COUNT] * _padded(loan.is_same, batch)
      parts.append(part)
    for index, on_host, loan in waiting:
      # Now that the last window is known: it lends to those that found none,
      # and to the first one in any case.
      is_other = loan.is_same & (loan.groups < donors.first_of_last)
      is_first = (np.arange(len(is_other)) == 0) & (index == 0)
      borrowers = np.flatnonzero(is_other | is_first)
      if not len(borrowers):
        continue
      batch = rows.place(on_host, mesh)
      lenders: np.ndarray = np.ones(len(batch.tokens), np.int32)
      lent = _lend(carried, carried, lenders, mesh)
      sums = _score_permuted(sampler_fn, params, batch, lent, settings, mesh)
      for name, values in jax.device_get(sums).items():
        parts[index][name][borrowers] = values[borrowers]
      parts[index][_SAME][np.flatnonzero(is_other)] = 0
    columns = {
      name: np.concatenate([part[name] for part in parts]).astype(np.float64)
      for name in parts[0]
    }
    if settings.permuted:
      check_num_rows(int(np.count_nonzero(columns[COUNT])))
    return columns


def check_num_rows(num_rows: float) -> None:
  """Raises ValueError if contexts cannot be permuted."""
  if num_rows < 2:
    raise ValueError(
      "--permuted scores each row with another row's context and needs at"
      " least 2 rows that can be scored; evaluate more rows."
    )


def check_last_chunk(positions: Positions, chunk_size: int) -> None:
  """Raises ValueError if what is scored does not lie in one chunk."""
  if positions.num_chunks > 1:
    raise ValueError(
      f"--last_chunk needs chunks of at least {NUM_ORDERS} tokens, so that what"
      f" is scored lies in one; those of this model have {chunk_size}. Leave it"
      " out."
    )


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def score(
  sampler_fn: SamplerFn,
  params: Any,
  batch: Batch,
  settings: PredictionSettings,
  mesh: Mesh | None,
) -> tuple[dict[str, jax.Array], _Predictions]:
  """Scores one batch; see `prediction_columns`.

  Args:
    sampler_fn: binds parameters.
    params: what it takes.
    batch: B rows, from `rows.place`.
    settings: what is measured, without the controls.
    mesh: of the rows.

  Returns:
    Sums over the scored positions of each row, [B] float32 by name, and what
    the model said at all positions.
  """
  call = functools.partial(_score_rows, sampler_fn, settings)
  sums, predictions = rows.over_rows(call, mesh)(params, batch)
  return rows.everywhere(sums, mesh), rows.split(predictions, mesh)


def _score_rows(
  sampler_fn: SamplerFn,
  settings: PredictionSettings,
  params: Any,
  batch: Batch,
) -> tuple[dict[str, jax.Array], _Predictions]:
  sampler = sampler_fn(params)
  positions = _positions(batch, settings)
  needed = needed_chunks(positions)
  targets = chunk_targets(batch, sampler.closing_id)
  if positions.num_chunks > 1:
    hidden, context = sampler.read(batch.tokens, batch.segment_ids)
  else:
    hidden, context = sampler.hidden(batch.tokens, batch.segment_ids), None
  hidden = hidden[:, needed]
  keys = _keys(settings, "evaluation_noise", batch, needed)
  sample_ids = jnp.arange(settings.num_samples, dtype=jnp.uint32)
  if sampler.probabilities is None:
    latents = sampler.draw_latents(hidden, keys, sample_ids)
    labels = jnp.asarray(targets.tokens)[:, needed + 1]
    tokens = _decode(sampler, latents, labels, settings)
  else:
    latents, tokens = None, sampler.draw(hidden, keys, sample_ids)
  predictions = _Predictions(hidden, latents, tokens)

  path_keys = sample_keys(
    _keys(settings, "evaluation_path", batch, positions.chunk_ids),
    jnp.arange(max(1, positions.num_chunks - 1), dtype=jnp.uint32),
  )
  collision = collision_terms(
    sampler,
    Draws(needed, hidden, tokens),
    context,
    path_keys,
    positions,
    num_paths=max(8, _MAX_PATHS // positions.num_chunks),
  )
  is_scored = positions.is_scored(batch.token_mask, targets.mask)
  sums = {COUNT: jnp.sum(is_scored, axis=-1)}
  for n in range(NUM_ORDERS):
    sums[f"collision_{n + 1}"] = _sum(is_scored, collision[..., n])
  sums |= _against_text(sampler, batch, predictions, positions, settings)
  return sums, predictions


def _decode(
  sampler: Any,
  latents: jax.Array,
  labels: jax.Array,
  settings: PredictionSettings,
) -> jax.Array:
  """[B, U, S, Z] → ids [B, U, S, K], as far as the scores look at them."""
  if settings.permuted:  # they are compared with the text of other rows, too
    return sampler.decode(latents)
  num_tokens = min(NUM_ORDERS, labels.shape[-1])
  return sampler.decode_compared(latents, labels, num_tokens)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _score_permuted(
  sampler_fn: SamplerFn,
  params: Any,
  batch: Batch,
  lent: _Predictions,
  settings: PredictionSettings,
  mesh: Mesh | None,
) -> dict[str, jax.Array]:
  """Each row with what was predicted for the row that lends to it."""

  def call(params, batch, predictions):
    positions = _positions(batch, settings)
    return _against_text(
      sampler_fn(params), batch, predictions, positions, settings
    )

  sums = rows.over_rows(call, mesh)(params, batch, lent)
  sums = {name + PERMUTED: value for name, value in sums.items()}
  return rows.everywhere(sums, mesh)


@functools.partial(jax.jit, static_argnums=3)
def _lend(
  carried: _Predictions,
  predictions: _Predictions,
  places: np.ndarray,
  mesh: Mesh | None,
) -> _Predictions:
  """Rows of both, one after the other, at the places: [B, …]."""
  return rows.split(_at(carried, predictions, places), mesh)


@functools.partial(jax.jit, static_argnums=3)
def _keep(
  carried: _Predictions,
  predictions: _Predictions,
  places: np.ndarray,
  mesh: Mesh | None,
) -> _Predictions:
  """The same of the two rows that are carried to the next batch: [2, …]."""
  return rows.everywhere(_at(carried, predictions, places), mesh)


def _at(
  carried: _Predictions, predictions: _Predictions, places: np.ndarray
) -> _Predictions:
  take = lambda x, y: jnp.concatenate([x, y])[places]
  return jax.tree.map(take, carried, predictions)


def _padded(values: np.ndarray, batch: Batch) -> np.ndarray:
  """[B] for a batch that `rows.place` has given more rows."""
  return np.pad(values, (0, len(batch.tokens) - len(values)))


def _against_text(
  sampler: Any,
  batch: Batch,
  predictions: _Predictions,
  positions: Positions,
  settings: PredictionSettings,
) -> dict[str, jax.Array]:
  """Sums of what compares predictions with the text of their window."""
  needed = needed_chunks(positions)
  hidden, latents, tokens = predictions
  targets = chunk_targets(batch, sampler.closing_id)
  is_scored = positions.is_scored(batch.token_mask, targets.mask)
  accuracy = accuracy_terms(
    sampler, Draws(needed, hidden, tokens), targets.tokens, positions
  )
  sums = {
    f"accuracy_{n + 1}": _sum(is_scored, accuracy[..., n])
    for n in range(NUM_ORDERS)
  }
  if latents is None:
    # A scored token has probability; the guard is for those left out.
    nats = -jnp.log(jnp.maximum(accuracy[..., 0], 1e-30))
    return sums | {"cross_entropy": _sum(is_scored, nats)}
  here = np.searchsorted(needed, positions.chunk_ids)
  # Of all chunks: where the model has read the latents of the same ones, the
  # compiler encodes them once.
  posterior = jax.tree.map(
    lambda x: x[:, positions.chunk_ids + 1], sampler.encode(targets.tokens)
  )
  energy, _ = energy_loss(
    latents[:, here],
    posterior.mean,
    posterior.log_std,
    _keys(settings, "evaluation_targets", batch, positions.chunk_ids),
    num_targets=_NUM_TARGETS,
    distance=Distance("energy", sampler.alpha),
    partition=position_partition(),
  )
  return sums | {"energy_loss": _sum(is_scored, energy)}


def _chunks_apart(batch: Batch, settings: PredictionSettings) -> Batch:
  """The batch with every chunk a segment of its own."""
  check_last_chunk(_positions(batch, settings), batch.tokens.shape[-1])
  segment_ids = np.broadcast_to(
    np.arange(batch.tokens.shape[1], dtype=np.int32), batch.segment_ids.shape
  )
  return batch._replace(segment_ids=segment_ids)


def _positions(batch: Batch, settings: PredictionSettings) -> Positions:
  _, length, chunk_size = batch.tokens.shape
  return select_positions(
    settings.positions, row_length=length * chunk_size, chunk_size=chunk_size
  )


def _keys(
  settings: PredictionSettings, stream: str, batch: Batch, chunk_ids: np.ndarray
) -> jax.Array:
  """[B, n] keys of the given chunks."""
  key = stream_key(settings.seed, stream)
  return position_keys(key, batch.row_ids, chunk_ids.astype(np.uint32))


def _sum(is_scored: jax.Array, values: jax.Array) -> jax.Array:
  return jnp.sum(jnp.where(is_scored, values, 0), axis=-1)
