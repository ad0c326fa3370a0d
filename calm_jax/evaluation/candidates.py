"""What a model says of a text behind a context, chunk by chunk.

The context ends on a chunk's boundary, as a prompt does, and the candidate is
read by teacher forcing: chunk j is predicted from the context and the
candidate's own chunks before it. A model without likelihoods is asked for S
latents at each, which are compared with the chunk; what becomes of the
comparisons is up to `likelihood`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from calm_jax.data.tokenizer import Tokenizer
from calm_jax.evaluation.chunk_terms import PARTIAL, ChunkTerms, compare
from calm_jax.randomness import stream_key
from calm_jax.sampling import rows as rows_lib
from calm_jax.sampling.prompt import encode_prompt, prompt_id
from calm_jax.sampling.sampler import SamplerFn

_FEWEST_CHUNKS = 16  # lengths are rounded up to powers of two from here on


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateSettings:
  """How candidates are compared with what a model draws."""

  num_samples: int = 64  # S, draws of each chunk
  # The last chunk of a candidate that fills only a part of it: marginal over
  # what may follow, or filled with end ids, as where a document ends.
  partial: str = "marginal"
  seed: int = 0

  def __post_init__(self):
    if self.num_samples < 2:
      raise ValueError(
        f"num_samples is {self.num_samples}; the energy score compares samples"
        " with each other and needs at least 2."
      )
    if self.partial not in PARTIAL:
      raise ValueError(
        f"partial is {self.partial!r}; choose from {', '.join(PARTIAL)}."
      )


class CandidateRow(NamedTuple):
  """A context and a candidate in chunks."""

  tokens: np.ndarray  # [L, K] int32; end ids behind the candidate
  num_context: int  # chunks of the context, at least 1
  num_last: int  # tokens of the last chunk that are the candidate's, 1 … K
  row_id: int  # of the draws: candidates of one context share theirs
  is_cut: bool  # whether the context lost its beginning

  @property
  def num_chunks(self) -> int:
    """J, of the candidate."""
    return len(self.tokens) - self.num_context


class _Rows(NamedTuple):
  """Rows of a batch."""

  tokens: np.ndarray  # [B, L, K]
  chunk_ids: np.ndarray  # [B, J] int32, the candidates' chunks, at least 1
  num_real: np.ndarray  # [B, J] int32, the candidate's tokens in each
  row_ids: np.ndarray  # [B] uint32


def encode_candidate(
  context: str, text: str, tokenizer: Tokenizer, chunk_size: int, length: int
) -> CandidateRow:
  """Turns a context and a candidate into one row.

  Args:
    context: may be empty. What does not fit is left out at its beginning.
    text: behind it, with the white space between the two.
    tokenizer: of the run.
    chunk_size: K.
    length: L, chunks of the longest row the model knows.

  Returns:
    The row.

  Raises:
    ValueError: if the candidate is empty or longer than the model's context.
  """
  front = encode_prompt(context, tokenizer, chunk_size)
  ids = tokenizer.encode_all([text], [not context])[0]
  if not len(ids):
    raise ValueError("a candidate is empty; each is a text.")
  num_chunks = -(-len(ids) // chunk_size)
  if num_chunks >= length:
    raise ValueError(
      f"a candidate has {len(ids)} tokens, and the model's context of"
      f" {length * chunk_size} leaves room for {(length - 1) * chunk_size};"
      f" leave it out: {text[:40]!r}."
    )
  kept = front[max(0, len(front) + num_chunks - length) :]
  tail = num_chunks * chunk_size - len(ids)
  end_id = tokenizer.vocabulary.end_id
  ids = np.pad(ids, (0, tail), constant_values=end_id).reshape(-1, chunk_size)
  return CandidateRow(
    np.concatenate([kept, ids]).astype(np.int32),
    len(kept),
    chunk_size - tail,
    prompt_id(kept),
    len(kept) < len(front),
  )


def candidate_terms(
  sampler_fn: SamplerFn,
  params: Any,
  candidates: Sequence[CandidateRow],
  settings: CandidateSettings,
  *,
  batch_size: int = 8,
  mesh: Mesh | None = None,
  progress_fn: Callable[[int, int], None] | None = None,
) -> list[ChunkTerms]:
  """Compares candidates with what a model draws for their chunks.

  The draws of a chunk depend on seed, context and the chunk's place, so
  candidates of one context are judged by the same draws, and nothing depends
  on batches or the mesh.

  Args:
    sampler_fn: binds parameters, see `Family.sampler_fn`.
    params: what it takes.
    candidates: as `encode_candidate` gives them.
    settings: how.
    batch_size: rows at once on a device.
    mesh: over which rows are shared out; all its processes call this together.
    progress_fn: called after each batch with the candidates done, and all.

  Returns:
    What was found of each.

  Raises:
    ValueError: if batch_size is not positive.
  """
  if batch_size < 1:
    raise ValueError(f"batch_size is {batch_size}; it is at least 1.")
  found: list[ChunkTerms | None] = [None] * len(candidates)
  shapes = [_shape(row) for row in candidates]
  order = sorted(range(len(candidates)), key=lambda i: shapes[i])
  batch_size *= rows_lib.num_parts(mesh)
  key = stream_key(settings.seed, "candidates_noise")
  target_key = stream_key(settings.seed, "candidates_targets")
  with rows_lib.on(mesh):
    start = 0
    while start < len(order):
      shape = shapes[order[start]]
      part = [
        i for i in order[start : start + batch_size] if shapes[i] == shape
      ]
      batch = _stack([candidates[i] for i in part], shape, batch_size)
      terms = jax.device_get(
        _score(
          sampler_fn,
          (params, key, target_key),
          rows_lib.place(batch, mesh),
          settings.num_samples,
          settings.partial,
          mesh,
        )
      )
      for row, i in enumerate(part):
        size = candidates[i].num_chunks
        found[i] = ChunkTerms(
          **{
            name: value[row] if value.ndim == 1 else value[row, :size]
            for name, value in terms.items()
          }
        )
      start += len(part)
      if progress_fn is not None:
        progress_fn(start, len(order))
  return found


def _shape(row: CandidateRow) -> tuple[int, int]:
  """L and J of the program that a row goes through."""
  sizes = (len(row.tokens) - 1) // _FEWEST_CHUNKS, row.num_chunks - 1
  length, num_chunks = (1 << size.bit_length() for size in sizes)
  return length * _FEWEST_CHUNKS, num_chunks


def _stack(
  candidates: Sequence[CandidateRow], shape: tuple[int, int], size: int
) -> _Rows:
  length, num_chunks = shape
  chunk_size = candidates[0].tokens.shape[1]
  tokens = np.zeros((size, length, chunk_size), np.int32)
  chunk_ids = np.ones((size, num_chunks), np.int32)
  num_real = np.full((size, num_chunks), chunk_size, np.int32)
  row_ids = np.zeros(size, np.uint32)
  for i, row in enumerate(candidates):
    last = len(row.tokens) - 1
    tokens[i, : last + 1] = row.tokens
    # Behind its last chunk a candidate is asked for that one again.
    chunk_ids[i] = np.minimum(row.num_context + np.arange(num_chunks), last)
    num_real[i, last - row.num_context :] = row.num_last
    row_ids[i] = row.row_id
  return _Rows(tokens, chunk_ids, num_real, row_ids)


@functools.partial(jax.jit, static_argnums=(0, 3, 4, 5))
def _score(
  sampler_fn: SamplerFn,
  shared: tuple[Any, jax.Array, jax.Array],
  batch: _Rows,
  num_samples: int,
  partial: str,
  mesh: Mesh | None,
) -> dict[str, jax.Array]:
  call = functools.partial(_score_rows, sampler_fn, num_samples, partial)
  found = rows_lib.over_rows(call, mesh)(shared, batch)
  return rows_lib.everywhere(found, mesh)


def _score_rows(
  sampler_fn: SamplerFn,
  num_samples: int,
  partial: str,
  shared: tuple[Any, jax.Array, jax.Array],
  batch: _Rows,
) -> dict[str, jax.Array]:
  params, key, target_key = shared
  sampler = sampler_fn(params)
  rows = jnp.arange(len(batch.tokens))[:, None]
  one_document = jnp.zeros(batch.tokens.shape[:2], jnp.int32)
  hidden = sampler.hidden(batch.tokens, one_document)[rows, batch.chunk_ids - 1]
  tokens = jnp.asarray(batch.tokens)[rows, batch.chunk_ids]  # [B, J, K]
  if sampler.probabilities is not None:
    log_p, is_top = sampler.log_probabilities(hidden, tokens[..., 0])
    return {"log_probability": log_p, "is_top": is_top}
  fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, 0))

  def keys(key):
    row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch.row_ids)
    return fold(row_keys, batch.chunk_ids.astype(jnp.uint32))

  ids = jnp.arange(num_samples, dtype=jnp.uint32)
  latents = sampler.draw_latents(hidden, keys(key), ids)  # [B, J, S, Z]
  return compare(
    sampler, latents, tokens, batch.num_real, keys(target_key), partial
  )
