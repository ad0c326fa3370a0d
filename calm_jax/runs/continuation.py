"""Prompts to text with a loaded run."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.families import family_of
from calm_jax.sampling.generate import (
  Generation,
  RowKeys,
  advance,
  row_keys,
  start,
)
from calm_jax.sampling.prompt import (
  Prompts,
  check_context,
  encode_prompt,
  prompt_id,
  stack_prompts,
)
from calm_jax.sampling.rows import num_parts, on, place
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.sampling.text_stream import TextStream

# Prompts and new text up to a multiple of so many chunks share a program.
_PROMPT_STEP = 16
_NEW_STEP = 64
_CHUNKS_BETWEEN_LOOKS = 8  # for stop strings, where nobody watches


class Continuation(NamedTuple):
  """What follows a prompt."""

  text: str
  tokens: list[int]  # without the end id; may go on behind a stop string
  # end: the model ended the text · stop: a stop string · length · spent: the
  # exact method found no next chunk within its budget
  finish: str
  num_draws: int  # chunks drawn from the model
  num_spent: int  # chunks that the exact method did not find in its budget
  num_fallbacks: int  # chunks for which no candidate came up ⌊1/T⌋ times


class TextGenerator:
  """Continues prompts; compiled once for each shape.

  What is another number alone compiles nothing again, not in another generator
  of the same run either: temperature, noise scale, top_p, the exact method's
  budget, seed, stop strings, and up to the next multiple of 64 chunks the
  number of new tokens. All processes of the run's mesh call its methods
  together.
  """

  def __init__(self, run: LoadedRun, settings: SamplingSettings):
    """Prepares sampling.

    Args:
      run: a next-vector or token model.
      settings: how to sample.

    Raises:
      ValueError: if run and settings do not fit.
    """
    self._run = run
    self._chunk_size = run.config.model.chunk_size
    family = family_of(run.config.model)
    self._sampler_fn = family.sampler_fn(run.config, top_k=settings.top_k)
    temperature = family.temperature_settings(settings)
    self._stops_when_spent = temperature.when_spent == "stop"
    self._temperature = temperature.bind()
    self._params = family.bind_params(
      run.params,
      run.autoencoder,
      noise_scale=settings.noise_scale,
      temperature=settings.temperature,
      top_p=settings.top_p,
    )

  def continue_prompts(
    self,
    prompts: Sequence[str],
    *,
    num_tokens: int,
    num_samples: int = 1,
    stop: str | Sequence[str] = (),
    seed: int = 0,
    max_rows: int = 16,
    text_fn: Callable[[int, str], None] | None = None,
  ) -> list[list[Continuation]]:
    """Continues each prompt several times.

    A continuation depends on its prompt, the seed and its number, not on the
    other prompts.

    Args:
      prompts: texts.
      num_tokens: at most so many new tokens each.
      num_samples: continuations of each prompt.
      stop: a string at which a text ends, or several; of those that occur the
        one that ends first. It is not part of the text.
      seed: of all draws.
      max_rows: continuations made at once on a device; bounds its memory.
      text_fn: called with the number of a row and its new text, as it comes;
        row r is continuation r % num_samples of prompt r // num_samples.

    Returns:
      For each prompt its continuations.

    Raises:
      ValueError: if a prompt does not fit the context.
    """
    if num_tokens < 1 or num_samples < 1:
      raise ValueError(
        f"num_tokens is {num_tokens} and num_samples {num_samples}; both are"
        " at least 1."
      )
    tokenizer, size = self._run.tokenizer, self._chunk_size
    chunks = [encode_prompt(text, tokenizer, size) for text in prompts]
    self._check_context(max(map(len, chunks), default=0), num_tokens)
    rows = [(i, s) for i in range(len(prompts)) for s in range(num_samples)]
    streams = [TextStream(tokenizer, stop) for _ in rows]
    found: list[Continuation] = []
    max_rows *= num_parts(self._run.mesh)
    for first in range(0, len(rows), max_rows):
      part = rows[first : first + max_rows]
      with on(self._run.mesh):
        found += self._continue_rows(
          [chunks[i] for i, _ in part],
          np.array([s for _, s in part], np.uint32),
          streams[first : first + max_rows],
          num_tokens=num_tokens,
          seed=seed,
          has_stop=bool(stop),
          text_fn=text_fn
          and (lambda row, text, first=first: text_fn(first + row, text)),
        )
    return [
      found[i : i + num_samples] for i in range(0, len(found), num_samples)
    ]

  def _continue_rows(
    self,
    prompts: list[np.ndarray],
    sample_ids: np.ndarray,
    streams: list[TextStream],
    *,
    num_tokens: int,
    seed: int,
    has_stop: bool,
    text_fn: Callable[[int, str], None] | None,
  ) -> list[Continuation]:
    end_id = self._run.tokenizer.vocabulary.end_id
    placed, *numbers = _place_prompts(
      prompts, sample_ids, end_id, self._run.mesh
    )
    rows = self._begin(placed, row_keys(seed, *numbers), num_tokens)
    # What only fills the devices has ended before it begins.
    is_done = np.arange(rows.num_rows) >= len(prompts)
    if text_fn is not None:
      num_at_once = 1
    else:
      num_at_once = _CHUNKS_BETWEEN_LOOKS if has_stop else num_tokens
    results: list[Continuation | None] = [None] * len(prompts)
    ids: list[list[int]] = [[] for _ in prompts]
    while any(result is None for result in results):
      new = rows.advance(num_at_once, is_done)
      is_done = np.array(rows.is_done)
      for r, result in enumerate(results):
        if result is not None:
          continue
        finish, taken = _take(new[r], num_tokens - len(ids[r]), end_id)
        ids[r] += taken
        text = streams[r].add(taken, is_last=finish is not None)
        if text and text_fn is not None:
          text_fn(r, text)
        if streams[r].is_stopped:
          finish = "stop"
        if finish is not None:
          is_done[r] = True
          results[r] = rows.result(r, streams[r].text, ids[r], finish)
    return results

  def _check_context(self, num_prompt_chunks: int, num_tokens: int) -> None:
    size = self._chunk_size
    check_context(
      num_prompt_chunks,
      -(-num_tokens // size),
      self._run.config.num_chunks,
      size,
    )

  def _begin(
    self, prompts: Prompts, keys: RowKeys, num_tokens: int
  ) -> "RowsUnderWay":
    """Reads prompts that lie on the devices."""
    mesh = self._run.mesh
    num_chunks = -(-num_tokens // self._chunk_size)
    rows = start(
      self._sampler_fn, self._params, prompts, with_spare(num_chunks), mesh
    )
    call = functools.partial(
      advance,
      self._sampler_fn,
      self._params,
      keys=keys,
      temperature=self._temperature,
      mesh=mesh,
    )
    return _PlainRows(rows, call, num_chunks, self._stops_when_spent, mesh)


class RowsUnderWay(Protocol):
  """Rows on the devices, and what of them is known here."""

  num_rows: int  # with those that only fill the devices
  is_done: Any  # [R] bool

  def advance(self, num_steps: int, is_done: np.ndarray) -> list[np.ndarray]:
    """Goes on by some steps at most; gives the new ids of each row."""

  def result(
    self, row: int, text: str, tokens: list[int], finish: str
  ) -> Continuation:
    """What is told of a row that has just ended."""


class _PlainRows:
  """Rows that all advance by whole chunks."""

  def __init__(
    self,
    rows: Generation,
    advance_fn: Callable[..., Generation],
    num_chunks: int,
    stops_when_spent: bool,
    mesh: Mesh | None,
  ):
    self.num_rows = len(rows.num_chunks)
    self._rows = rows
    self._advance_fn = advance_fn
    self._num_left = num_chunks
    self._num_seen = 0
    self._stops_when_spent = stops_when_spent
    self._mesh = mesh

  @property
  def is_done(self) -> Any:
    return self._rows.is_done

  def advance(self, num_steps: int, is_done: np.ndarray) -> list[np.ndarray]:
    rows = self._advance_fn(
      self._rows._replace(is_done=place(is_done, self._mesh)),
      num_chunks=jnp.int32(min(num_steps, self._num_left - self._num_seen)),
    )
    num_new = int(np.max(rows.num_new))
    new = np.asarray(rows.tokens)[:, self._num_seen : num_new]
    self._num_seen = num_new
    self._rows = rows
    self._counts = np.stack(
      [rows.num_draws, rows.num_spent, rows.num_fallbacks]
    )
    return list(new.reshape(self.num_rows, -1))

  def result(
    self, row: int, text: str, tokens: list[int], finish: str
  ) -> Continuation:
    counts = self._counts[:, row].tolist()
    if finish == "end" and self._stops_when_spent and counts[1]:
      finish = "spent"
    return Continuation(text, tokens, finish, *counts)


def _place_prompts(
  prompts: list[np.ndarray],
  sample_ids: np.ndarray,
  end_id: int,
  mesh: Mesh | None,
) -> tuple[Prompts, np.ndarray | jax.Array, np.ndarray | jax.Array]:
  """Puts prompts and what their draws are named by on the devices.

  Args:
    prompts: [P_r, K] int32 each.
    sample_ids: [R] uint32, numbers of the continuations.
    end_id: fills up shorter prompts.
    mesh: of the rows.

  Returns:
    Stacked prompts, their ids [R'] and the sample ids [R'].
  """
  stacked = stack_prompts(prompts, end_id)
  num_pad = -stacked.tokens.shape[1] % _PROMPT_STEP
  padded = np.pad(
    stacked.tokens, ((0, 0), (0, num_pad), (0, 0)), constant_values=end_id
  )
  prompt_ids = np.array([prompt_id(one) for one in prompts], np.uint32)
  return place((stacked._replace(tokens=padded), prompt_ids, sample_ids), mesh)


def with_spare(num_chunks: int) -> int:
  """Room for new chunks, such that few sizes are compiled."""
  return -(-num_chunks // _NEW_STEP) * _NEW_STEP


def _take(
  ids: np.ndarray, num_left: int, end_id: int
) -> tuple[str | None, list[int]]:
  """The ids before the end, and why they end, if they do."""
  ends = np.flatnonzero(ids == end_id)
  length = int(ends[0]) if len(ends) else len(ids)
  if length >= num_left:
    return "length", ids[:num_left].tolist()
  return ("end" if len(ends) else None), ids[:length].tolist()
