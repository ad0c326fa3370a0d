"""Distillation: chunks that a token model writes as targets beside the text's.

Sequence-level distillation (arXiv:1606.07947), for drafters as in DistillSpec
(arXiv:2310.08461), and without a likelihood on either side: the teacher reads
the text, and after each chunk draws the K tokens that it would go on with. A
share s of the chunks has those as target, the others what stands in the text.
The model reads the text all along.

A proper score is then best at the mixture (1 − s)·P + s·Q of text and teacher,
each given the text so far. A drafter is asked for Q alone: its drafts are kept
where the teacher draws the same.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from calm_jax.config import ExperimentConfig
from calm_jax.data.batch import Batch
from calm_jax.randomness import chunk_keys, draw, stream_key
from calm_jax.sampling.token_sampler import TokenSampler
from calm_jax.training import sharding


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


def with_targets(
  sampler: TokenSampler, batch: Batch, key: jax.Array, share: float
) -> Batch:
  """The batch, a share of whose targets a teacher wrote.

  A chunk that is not all real text keeps its own, so what counts stays as it
  is.

  Args:
    sampler: the teacher.
    batch: of text.
    key: of the step, [].
    share: of the chunks, s.

  Returns:
    The same rows with `target_tokens`.
  """
  num_chunks, chunk_size = batch.tokens.shape[1:]
  keys = chunk_keys(key, batch.row_ids, num_chunks)
  following = following_chunks(sampler, batch.tokens, keys)
  fold = functools.partial(jax.random.fold_in, data=chunk_size)
  choice_keys = draw(fold, keys)
  is_taught = draw(jax.random.uniform, choice_keys) < share
  # From the chunk that is gone on from to the one that is written.
  following = jnp.roll(following, 1, axis=1)
  is_taught = jnp.roll(is_taught, 1, axis=1).at[:, 0].set(False)
  is_taught &= jnp.all(batch.token_mask, axis=-1)
  return batch._replace(
    target_tokens=jnp.where(is_taught[..., None], following, batch.tokens)
  )


class Teacher:
  """`with_targets` of one run, compiled for its mesh."""

  def __init__(self, config: ExperimentConfig, params: Any, mesh: Mesh):
    """Takes a run's resolved config, and the teacher's parameters."""
    self._params, self._mesh, self._seed = params, mesh, config.seed
    data = config.data

    @functools.partial(jax.jit, out_shardings=sharding.chunk_sharding(mesh))
    def write(params: Any, batch: Batch, key: jax.Array) -> jax.Array:
      sampler = TokenSampler(
        config.teacher, params, temperature=data.teacher_temperature
      )
      taught = with_targets(sampler, batch, key, data.teacher_share)
      return taught.target_tokens

    self._write = write

  def __call__(self, batch: Batch, step: int) -> Batch:
    """Writes targets for the rows of a step; depends on seed, step and rows."""
    key = stream_key(self._seed, "teacher", step)
    with jax.set_mesh(self._mesh):
      return batch._replace(target_tokens=self._write(self._params, batch, key))
