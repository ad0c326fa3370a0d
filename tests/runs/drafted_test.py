"""Tests runs/drafted.py: drafted decoding gives the ids of plain decoding."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.config import MeshConfig
from calm_jax.model import Cache
from calm_jax.runs.continuation import TextGenerator
from calm_jax.runs.drafted import DraftedGenerator
from calm_jax.sampling.drafter import DraftSettings
from calm_jax.sampling.prompt import encode_prompt
from calm_jax.sampling.sampler import Binding
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.training import sharding
from tests.cached import cached
from tests.sampling.tiny_runs import (
  autoencoder_run,
  calm_run,
  on_mesh,
  token_run,
)

_PROMPTS = ("ab", "hello world", "", "the class of all", "x" * 20, "return")


class _Oracle(NamedTuple):
  """Drafts what plain decoding wrote, with errors; random models never do."""

  table: jax.Array  # [R, N], what each row will say
  chunk_size: int
  num_drafts: int
  error_rate: float

  def start(self, texts):
    num_rows, width = texts.tokens.shape
    num_slots = width - self.chunk_size + 1
    cache = Cache(*[jnp.zeros((1, num_rows, 1, 1, num_slots))] * 2)
    return cache, jnp.zeros(num_rows, jnp.int32)

  def draft(self, texts, cut, cache, num_read, keys):
    places = texts.length[:, None] + jnp.arange(self.chunk_size)[None]
    rows = jnp.arange(len(places))[:, None]
    chunks = self.table[rows, jnp.minimum(places, self.table.shape[1] - 1)]
    chunks = jnp.repeat(chunks[:, None], self.num_drafts, axis=1)
    shape = chunks.shape[1:]
    is_wrong = jax.vmap(
      lambda key: jax.random.bernoulli(key, self.error_rate, shape)
    )(keys)
    return jnp.where(is_wrong, (chunks + 1) % 256, chunks), cache


def _make_oracle(table, chunk_size, num_drafts, error_rate):
  return _Oracle(table, chunk_size, num_drafts, error_rate)


class _OracleGenerator(DraftedGenerator):
  """All rows at once, in the order of `continue_prompts`."""

  def __init__(self, run, settings, drafting, chunk_size, table, error_rate):
    drafter = calm_run(chunk_size, num_chunks=-(-400 // chunk_size))
    super().__init__(run, drafter, settings, drafting)
    number = drafting.num_drafts
    self._drafter_fn = Binding(_make_oracle, (chunk_size, number, error_rate))
    self._both_params = (self._params, jnp.asarray(table))


def _run():
  return token_run(num_chunks=200)


@cached
def _plain(settings, prompts, num_tokens, num_samples):
  return TextGenerator(_run(), settings).continue_prompts(
    prompts, num_tokens=num_tokens, num_samples=num_samples, max_rows=2000
  )


def _table(prompts, found):
  """What each row says from its begin id on, and ends."""
  tokenizer = _run().tokenizer
  rows = [
    [*encode_prompt(prompt, tokenizer, 1)[:, 0].tolist(), *one.tokens]
    for prompt, continuations in zip(prompts, found, strict=True)
    for one in continuations
  ]
  table = np.full((len(rows), max(map(len, rows)) + 1), 257, np.int32)
  for line, row in zip(table, rows, strict=True):
    line[: len(row)] = row
  return table


def _check(found, expected):
  """Texts, ids and reasons to end are the same."""
  for continuations, others in zip(found, expected, strict=True):
    for one, other in zip(continuations, others, strict=True):
      assert one.tokens == other.tokens
      assert (one.text, one.finish) == (other.text, other.finish)
      num_new = len(one.tokens) + (one.finish == "end")
      assert sum(one.num_accepted) == one.num_verifications
      most = sum((j + 1) * n for j, n in enumerate(one.num_accepted))
      assert num_new <= most < num_new + len(one.num_accepted)


def _oracle(settings, drafting, chunk_size, prompts, num_tokens, num_samples):
  """Checks drafted decoding; returns all continuations."""
  expected = _plain(settings, prompts, num_tokens, num_samples)
  generator = _OracleGenerator(
    _run(), settings, drafting, chunk_size, _table(prompts, expected), 0.3
  )
  found = generator.continue_prompts(
    prompts, num_tokens=num_tokens, num_samples=num_samples, max_rows=2000
  )
  _check(found, expected)
  return [one for continuations in found for one in continuations]


@pytest.mark.parametrize(
  "sampling",
  [{"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 1}],
  ids=["hot", "top_p", "greedy"],
)
def test_ids_of_plain_decoding(sampling):
  drafting = DraftSettings(num_drafts=3, num_nodes=7)
  found = _oracle(SamplingSettings(**sampling), drafting, 4, _PROMPTS, 40, 6)
  accepted = np.sum([one.num_accepted for one in found], axis=0)
  assert (accepted > 0).all()
  assert sum(one.num_verifications for one in found) < 0.6 * 40 * len(found)
  if sampling == {"temperature": 1.0}:  # ends in the middle of chunks
    ends = {len(one.tokens) % 4 for one in found if one.finish == "end"}
    assert len(ends) > 1


def test_ids_with_a_next_vector_model():
  settings = SamplingSettings()
  expected = _plain(settings, _PROMPTS, 14, 2)
  generator = DraftedGenerator(
    _run(), calm_run(4), settings, DraftSettings(num_drafts=5, num_nodes=9)
  )
  found = generator.continue_prompts(_PROMPTS, num_tokens=14, num_samples=2)
  _check(found, expected)
  in_blocks = generator.continue_prompts(
    _PROMPTS[:3], num_tokens=14, num_samples=2, max_rows=12
  )
  assert in_blocks == found[:3]

  pieces = [""] * 12

  def add(row, text):
    pieces[row] += text

  streamed = generator.continue_prompts(
    _PROMPTS, num_tokens=14, num_samples=2, text_fn=add
  )
  assert streamed == found
  flat = [one for continuations in found for one in continuations]
  assert pieces == [one.text for one in flat]


def test_stop_strings_and_the_context_limit():
  settings = SamplingSettings()
  run = token_run(num_chunks=60)
  drafter = calm_run(4, num_chunks=15)
  generator = DraftedGenerator(
    run, drafter, settings, DraftSettings(num_drafts=5, num_nodes=9)
  )
  plain = TextGenerator(run, settings)
  whole = {"prompts": ["ab"], "num_tokens": 57}  # with the begin id 60
  expected = plain.continue_prompts(**whole)
  _check(generator.continue_prompts(**whole), expected)
  stop = [expected[0][0].text[5:7]]
  found, expected = (
    one.continue_prompts(**whole, stop=stop)[0][0] for one in (generator, plain)
  )
  assert (found.text, found.finish) == (expected.text, "stop")
  with pytest.raises(ValueError, match="at most 57 tokens"):
    generator.continue_prompts(["ab"], num_tokens=58)
  short = DraftedGenerator(
    _run(), drafter, settings, DraftSettings(num_drafts=5)
  )
  with pytest.raises(
    ValueError, match="drafter's context of 60; ask for at most 57"
  ):
    short.continue_prompts(["ab"], num_tokens=58)


def _other_tokenizer():
  run = calm_run(4)
  hashes = {**run.hashes, "tokenizer": "f" * 64}
  return dataclasses.replace(run, hashes=hashes)


@pytest.mark.parametrize(
  ("run", "drafter", "message"),
  [
    (calm_run, calm_run, "tiny holds a next_vector model; drafts are verified"),
    (token_run, token_run, "drafter tiny holds a token model"),
    (token_run, autoencoder_run, "drafter tiny holds a autoencoder model"),
    (token_run, _other_tokenizer, "another tokenizer"),
  ],
)
def test_refuses(run, drafter, message):
  with pytest.raises(ValueError, match=message):
    DraftedGenerator(run(), drafter(), SamplingSettings(), DraftSettings())


@pytest.mark.slow
@pytest.mark.parametrize("num_drafts", [1, 4, 16])
@pytest.mark.parametrize("chunk_size", [2, 4, 8])
def test_two_hundred_prompts(chunk_size, num_drafts):
  rng = np.random.default_rng(0)
  prompts = tuple(
    "".join(map(chr, rng.integers(97, 123, rng.integers(0, 24))))
    for _ in range(200)
  )
  drafting = DraftSettings(num_drafts=num_drafts)
  for sampling in (
    {"temperature": 1.0},
    {"temperature": 1.0, "top_p": 0.8},
    {"temperature": 0.7},
    {"top_k": 1},
  ):
    settings = SamplingSettings(**sampling)
    found = _oracle(settings, drafting, chunk_size, prompts, 24, 1)
    if sampling == {"temperature": 1.0}:
      assert any(one.finish == "end" for one in found)
      accepted = np.sum([one.num_accepted for one in found], axis=0)
      assert np.count_nonzero(accepted) > 1


@pytest.mark.slow
def test_drafts_do_not_depend_on_the_mesh():
  settings, drafting = SamplingSettings(), DraftSettings(num_drafts=5)
  expected = _plain(settings, _PROMPTS, 14, 2)
  mesh = sharding.make_mesh(MeshConfig(data=8))
  move = functools.partial(on_mesh, mesh=mesh)
  generator = DraftedGenerator(
    move(_run()), move(calm_run(4)), settings, drafting
  )
  _check(
    generator.continue_prompts(_PROMPTS, num_tokens=14, num_samples=2), expected
  )
