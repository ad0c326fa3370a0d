"""Distillation: chunks that a token model writes as targets beside the text's.

Sequence-level distillation (arXiv:1606.07947), for drafters as in DistillSpec
(arXiv:2310.08461), and without a likelihood on either side: the teacher reads
the text, and after each chunk draws the K tokens that it would go on with. A
share s of the chunks has those as target, the others what stands in the text.
The model reads the text all along.

A proper score is then best at the mixture (1 − s)·P + s·Q of text and teacher,
each given the text so far. A drafter is asked for Q alone: its drafts are kept
where the teacher draws the same. What DistillSpec found to help further,
contexts that the models wrote themselves, is not done here.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from calm_jax.config import ExperimentConfig
from calm_jax.data.batch import Batch, Targets, chunk_targets, close
from calm_jax.randomness import chunk_keys, draw, stream_key
from calm_jax.sampling import rows
from calm_jax.sampling.token_sampler import TokenSampler
from calm_jax.training import sharding
from calm_jax.training.sharding import joined_rows, split_rows

_MAX_TOKENS = 4096  # that a device reads at once


def following_chunks(
  sampler: TokenSampler, tokens: jax.Array, keys: jax.Array
) -> jax.Array:
  """What a token model would write after each chunk of its rows.

  Args:
    sampler: with its temperature.
    tokens: [B, L, K] ids.
    keys: [B, L] typed keys; a draw depends on its key and on what stands before
      it alone.

  Returns:
    [B, L, K] int32; entry i follows the chunks 0 … i.
  """
  num_rows, num_chunks, chunk_size = tokens.shape
  row = tokens.reshape(num_rows, -1)
  begin_id = sampler.config.vocabulary.begin_id
  segment_ids = jnp.cumsum(row == begin_id, axis=1, dtype=jnp.int32)
  hidden, context = sampler.read(row[..., None], segment_ids)
  ends = jnp.arange(chunk_size - 1, row.shape[1], chunk_size)
  hidden = hidden[:, ends]
  ends = jnp.broadcast_to(ends, (num_rows, num_chunks))
  drawn = []
  for place in range(chunk_size):
    if place:  # the few tokens so far are read again, as one path a chunk
      paths = jnp.stack(drawn, axis=-1)[..., None]
      hidden = sampler.branch(paths, ends, context)
    fold = functools.partial(jax.random.fold_in, data=place)
    found = sampler.draw(hidden, draw(fold, keys), jnp.zeros(1, jnp.uint32))
    drawn.append(found[..., 0, 0])
  return jnp.stack(drawn, axis=-1)


def taught_targets(
  sampler: TokenSampler,
  batch: Batch,
  key: jax.Array,
  *,
  share: float,
  closing_id: int | None,
) -> Targets:
  """Targets of which a teacher wrote a share.

  A chunk counts or does not as its text does: begin ids, prompts and fill are
  no targets, whoever writes. A document's end is the teacher's where the chunk
  is: with a closing id its end ids close the chunk, and without one a chunk
  that it ends before the last token does not count, as in text.

  Args:
    sampler: the teacher.
    batch: of text.
    key: of the step, [].
    share: of the chunks, s.
    closing_id: see `chunk_targets`.

  Returns:
    What stands for the chunks of the batch.
  """
  num_chunks, chunk_size = batch.tokens.shape[1:]
  keys = chunk_keys(key, batch.row_ids, num_chunks)
  following = following_chunks(sampler, batch.tokens, keys)
  fold = functools.partial(jax.random.fold_in, data=chunk_size)
  is_taught = draw(jax.random.uniform, draw(fold, keys)) < share
  # From the chunk that is gone on from to the one that is written.
  following = jnp.roll(following, 1, axis=1)
  is_taught = jnp.roll(is_taught, 1, axis=1).at[:, 0].set(False)
  text = chunk_targets(batch, closing_id)
  is_taught = (is_taught & jnp.all(text.mask, axis=-1))[..., None]
  taught = close(following, closing_id)
  counts = jnp.ones((), bool)
  if closing_id is None:
    end_id = sampler.config.vocabulary.end_id
    counts = jnp.all(taught[..., :-1] != end_id, axis=-1, keepdims=True)
  return Targets(
    jnp.where(is_taught, taught, text.tokens),
    jnp.where(is_taught, counts, text.mask),
  )


class Teacher:
  """`taught_targets` of one run, compiled for its mesh."""

  def __init__(self, config: ExperimentConfig, params: Any, mesh: Mesh):
    """Takes a run's resolved config, and the teacher's parameters."""
    self._params, self._mesh, self._seed = params, mesh, config.seed
    places = sharding.chunk_sharding(mesh)
    num_parts = _num_parts(config, mesh)

    def write_some(shared: tuple[Any, jax.Array], batch: Batch) -> Targets:
      params, key = shared
      sampler = TokenSampler(
        config.teacher, params, temperature=config.data.teacher_temperature
      )
      return taught_targets(
        sampler,
        batch,
        key,
        share=config.data.teacher_share,
        closing_id=config.closing_id,
      )

    @functools.partial(jax.jit, out_shardings=Targets(places, places))
    def write(shared: tuple[Any, jax.Array], batch: Batch) -> Targets:
      call = functools.partial(rows.over_rows(write_some, mesh), shared)
      parts = jax.tree.map(functools.partial(split_rows, num_parts), batch)
      return jax.tree.map(joined_rows, jax.lax.map(call, parts))

    self._write = write

  def __call__(self, batch: Batch, step: int) -> Batch:
    """Writes targets for the rows of a step; depends on seed, step and rows."""
    key = stream_key(self._seed, "teacher", step)
    with jax.set_mesh(self._mesh):
      targets = self._write((self._params, key), batch)
    return batch._replace(targets=targets)


def _num_parts(config: ExperimentConfig, mesh: Mesh) -> int:
  """Parts of a batch, so that a device reads no more than it may at once."""
  num_rows = config.data.batch_size
  num_rows //= mesh.shape["data"] * mesh.shape["fsdp"]
  most = max(1, _MAX_TOKENS // config.data.row_length)
  return num_rows // max(it for it in sharding.divisors(num_rows) if it <= most)
