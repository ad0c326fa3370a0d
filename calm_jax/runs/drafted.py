"""Prompts to text with a token model that a next-vector model drafts for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.families import family_of
from calm_jax.runs.continuation import TextGenerator, with_spare
from calm_jax.sampling.drafted import DraftedRows, Limits, advance, start
from calm_jax.sampling.drafter import DraftSettings, make_drafter
from calm_jax.sampling.generate import RowKeys
from calm_jax.sampling.prompt import Prompts
from calm_jax.sampling.rows import place
from calm_jax.sampling.sampler import Binding
from calm_jax.sampling.settings import SamplingSettings


class DraftedContinuation(NamedTuple):
  """What follows a prompt, and what the drafts were worth."""

  text: str
  tokens: list[int]  # without the end id; may go on behind a stop string
  finish: str  # end | stop | length, see `Continuation`
  num_verifications: int  # passes of the token model after its prompt
  # Entry j of K + 1: verifications of which j drafted tokens were right. The
  # last one may count tokens behind the end of the text.
  num_accepted: list[int]


class DraftedGenerator(TextGenerator):
  """`TextGenerator` of a token model, faster where drafts are good.

  Texts, ids and reasons to end are those of `TextGenerator` with the same
  settings and seed; see `sampling.verification` for the proof and its limits.
  """

  def __init__(
    self,
    run: LoadedRun,
    drafter: LoadedRun,
    settings: SamplingSettings,
    drafting: DraftSettings,
  ):
    """Prepares sampling.

    Args:
      run: a token model, which decides what is written.
      drafter: a next-vector model of the same tokenizer.
      settings: how to sample; of the token model.
      drafting: how to draft.

    Raises:
      ValueError: if runs and settings do not fit.
    """
    check_pair(run, drafter)
    super().__init__(run, settings)
    self._drafter = drafter
    self._drafting = drafting
    family = family_of(drafter.config.model)
    self._drafter_fn = Binding(
      make_drafter,
      (
        family.sampler_fn(drafter.config),
        drafting.num_drafts,
        drafting.alignment,
      ),
    )
    self._both_params = (
      self._params,
      family.bind_params(
        drafter.params, drafter.autoencoder, noise_scale=drafting.noise_scale
      ),
    )

  def _check_context(self, num_prompt_chunks: int, num_tokens: int) -> None:
    super()._check_context(num_prompt_chunks, num_tokens)
    config = self._drafter.config
    room = config.num_chunks * config.model.chunk_size
    if num_prompt_chunks + num_tokens > room:
      raise ValueError(
        f"a prompt of {num_prompt_chunks} tokens and {num_tokens} new ones"
        f" exceed the drafter's context of {room}; ask for at most"
        f" {max(0, room - num_prompt_chunks)} tokens, or take a drafter trained"
        " on longer rows."
      )

  def _begin(
    self, prompts: Prompts, keys: RowKeys, num_tokens: int
  ) -> "_DraftedRows":
    mesh = self._run.mesh
    rows = start(
      self._sampler_fn,
      self._drafter_fn,
      self._both_params,
      prompts,
      with_spare(num_tokens),
      mesh,
    )
    size = self._drafter.config.model.chunk_size
    num_all = self._drafting.num_drafts * size

    def call(rows: DraftedRows, num_rounds: int) -> DraftedRows:
      return advance(
        self._sampler_fn,
        self._drafter_fn,
        self._drafting.num_nodes or num_all,
        self._both_params,
        rows,
        keys,
        Limits(jnp.int32(num_rounds), jnp.int32(num_tokens)),
        mesh,
      )

    return _DraftedRows(rows, call, mesh)


class _DraftedRows:
  """Rows that advance by different lengths."""

  def __init__(
    self,
    rows: DraftedRows,
    advance_fn: Callable[[DraftedRows, int], DraftedRows],
    mesh: Mesh | None,
  ):
    self.num_rows = len(rows.num_prompt)
    self._rows = rows
    self._advance_fn = advance_fn
    self._mesh = mesh
    self._length = np.asarray(rows.texts.length)
    self._num_fill = rows.num_accepted.shape[1] - 2  # K − 1

  @property
  def is_done(self) -> Any:
    return self._rows.is_done

  def advance(self, num_steps: int, is_done: np.ndarray) -> list[np.ndarray]:
    rows = self._rows._replace(is_done=place(is_done, self._mesh))
    self._rows = rows = self._advance_fn(rows, num_steps)
    first, self._length = self._length, np.asarray(rows.texts.length)
    tokens = np.asarray(rows.texts.tokens)[:, self._num_fill :]
    return [
      row[begin:end]
      for row, begin, end in zip(tokens, first, self._length, strict=True)
    ]

  def result(
    self, row: int, text: str, tokens: list[int], finish: str
  ) -> DraftedContinuation:
    return DraftedContinuation(
      text,
      tokens,
      finish,
      int(self._rows.num_rounds[row]),
      np.asarray(self._rows.num_accepted[row]).tolist(),
    )


def check_pair(run: LoadedRun, drafter: LoadedRun) -> None:
  """Raises ValueError unless one run can draft for the other."""
  model, other = run.config.model, drafter.config.model
  if model.kind != "token":
    raise ValueError(
      f"the run {run.path} holds a {model.kind} model; drafts are verified by"
      " a token model (without a drafter it writes by itself)."
    )
  if not other.needs_autoencoder:
    raise ValueError(
      f"the drafter {drafter.path} holds a {other.kind} model; drafts come from"
      " a next-vector model."
    )
  if run.hashes["tokenizer"] != drafter.hashes["tokenizer"]:
    raise ValueError(
      f"the drafter {drafter.path} was trained with another tokenizer"
      f" ({drafter.hashes['tokenizer'][:12]}) than {run.path}"
      f" ({run.hashes['tokenizer'][:12]}); both need the same ids."
    )
