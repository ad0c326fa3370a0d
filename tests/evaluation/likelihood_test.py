"""Estimates against known probabilities."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.evaluation import likelihood
from calm_jax.evaluation.candidates import (
  CandidateRow,
  CandidateSettings,
  candidate_terms,
)
from calm_jax.evaluation.choices import paired_difference
from calm_jax.evaluation.chunk_terms import ChunkTerms, compare, joined
from calm_jax.sampling.prompt import prompt_id
from tests.cached import cached
from tests.evaluation.tabular_latents import TabularLatents

_MODEL = TabularLatents()
_BINDING = lambda params: _MODEL


def _terms(distances, log_stds=0.0, latent_size=8):
  distances = np.asarray(distances, np.float64)
  return ChunkTerms(
    is_top=np.zeros(len(distances), bool),
    distances=distances,
    log_stds=np.broadcast_to(log_stds, distances.shape),
    latent_size=latent_size,
  )


def test_kernel_is_the_density_over_that_of_the_chunk_alone():
  generator = np.random.default_rng(0)
  size, square = 8, 1.7**2
  mean, std = generator.normal(size=size), np.exp(generator.normal(size=size))
  x = mean + std * generator.normal(size=(5, size))
  distances = (((x - mean) / std) ** 2).sum(axis=-1)[None]
  terms = _terms(distances, np.log(std).sum(), size)

  def normal(x, variance):
    scaled = (x - mean) ** 2 / variance + np.log(2 * np.pi * variance)
    return np.exp(-scaled.sum(axis=-1) / 2)

  density = normal(x, square * std**2).mean()
  alone = normal(mean, (1 + square) * std**2)
  found = likelihood.density(terms, 5, 1.7)
  np.testing.assert_allclose(found, np.log(density), rtol=1e-12)
  found = likelihood.kernel(terms, 5, 1.7)
  np.testing.assert_allclose(found, np.log(density / alone), rtol=1e-12)


@pytest.mark.parametrize("bandwidth", [1.5, 3.0])
def test_moments_of_the_kernel_are_those_of_its_docstring(bandwidth):
  """A chunk with P = 0.3 whose atom lies apart from all others."""
  generator = np.random.default_rng(0)
  size, share, num_samples, num_trials = 8, 0.3, 64, 4000
  is_here = generator.random((num_trials, num_samples)) < share
  near = generator.chisquare(size, is_here.shape)
  terms = _terms(np.where(is_here, near, 1e4), latent_size=size)
  found = np.exp(likelihood.kernel(terms, num_samples, bandwidth))
  square = bandwidth**2
  second = (1 + 1 / (square * (square + 2))) ** (size / 2)
  variance = share * (second - share) / num_samples
  stderr = (variance / num_trials) ** 0.5
  assert abs(found.mean() - share) < 4 * stderr
  np.testing.assert_allclose(found.var(), variance, rtol=0.1)
  bias = np.log(found).mean() - np.log(share)
  expected = -(second / share - 1) / (2 * num_samples)
  assert abs(bias - expected) < 0.15 * abs(expected) + 4 * stderr / share


def test_matches_and_decoder_are_means_over_the_first_samples():
  generator = np.random.default_rng(0)
  is_match = generator.random((3, 16)) < 0.4
  nats = generator.exponential(size=(3, 16))
  terms = ChunkTerms(is_top=np.zeros(3, bool), is_match=is_match, nats=nats)
  np.testing.assert_allclose(
    likelihood.match(terms, 8, None),
    np.log((is_match[:, :8].sum(axis=-1) + 0.5) / 9),
  )
  np.testing.assert_allclose(
    likelihood.decoder(terms, 8, None),
    np.log(np.exp(-nats[:, :8]).mean(axis=-1)),
  )


@cached
def _items(num_items=2000, num_choices=4, num_chunks=2):
  """Contexts with different continuations that the model itself wrote."""
  generator = np.random.default_rng(1)
  size = _MODEL.chunk_size

  def write(past, count):
    past = [0, 0, *past]
    for _ in range(count):
      row = _MODEL.table[past[-2] * 3 + past[-1]]
      past += [*_MODEL.chunks[generator.choice(len(row), p=row)]]
    return past[-count * size :]

  items = []
  while len(items) < num_items:
    context = write([], 3)
    texts = {tuple(write(context, num_chunks)) for _ in range(60)}
    if len(texts) >= num_choices:
      texts = sorted(texts)
      chosen = generator.choice(len(texts), num_choices, replace=False)
      items.append((context, [texts[i] for i in chosen]))
  return items


def _rows(items, num_last=None):
  size = _MODEL.chunk_size
  return [
    CandidateRow(
      np.array([*context, *text], np.int32).reshape(-1, size),
      len(context) // size,
      num_last or size,
      prompt_id(np.array(context, np.int32)),
      False,
    )
    for context, texts in items
    for text in texts
  ]


@cached
def _found(num_samples=64):
  return candidate_terms(
    _BINDING,
    {},
    _rows(_items()),
    CandidateSettings(num_samples=num_samples),
    batch_size=500,
  )


@cached
def _exact():
  """[items, 4], log P of each candidate."""
  return np.array(
    [
      [
        _MODEL.log_probability(context, np.reshape(text, (-1, 3)))
        for text in texts
      ]
      for context, texts in _items()
    ]
  )


@cached
def _texts():
  return joined(_found())


def _scores(name, num_samples=64):
  """[items, 4], by an estimate."""
  chunks, starts = _texts()
  found = likelihood.ESTIMATES[name](chunks, num_samples, None)
  return np.add.reduceat(found, starts).reshape(_exact().shape)


def _is_clear(exact):
  """Whether the best candidate leads by log odds above 1."""
  ranked = np.sort(exact, axis=-1)
  return ranked[:, -1] - ranked[:, -2] > 1


# The energy score ranks by distance, which comes near to it.
@pytest.mark.parametrize(
  ("name", "least"),
  [("kernel", 0.95), ("decoder", 0.95), ("match", 0.95), ("energy", 0.9)],
)
def test_ranking_agrees_with_the_exact_one(name, least):
  """Of 2000 items of 4 candidates those with a clear best."""
  exact, scores = _exact(), _scores(name)
  is_clear = _is_clear(exact)
  assert is_clear.sum() > 500
  agrees = scores.argmax(axis=-1) == exact.argmax(axis=-1)
  assert agrees[is_clear].mean() >= least
  apart = exact[:, :, None] - exact[:, None] > 1
  ordered = scores[:, :, None] > scores[:, None]
  assert ordered[apart].mean() > least - 0.05


@pytest.mark.parametrize("name", ["energy", "kernel", "decoder"])
def test_more_samples_rank_better(name):
  best = _exact().argmax(axis=-1)
  agrees = [
    (_scores(name, count).argmax(axis=-1) == best).astype(np.float64)
    for count in (4, 16, 64)
  ]
  for fewer, more in itertools.pairwise(agrees):
    difference, stderr = paired_difference(more, fewer)
    assert difference > 5 * stderr


def test_open_tokens_of_the_last_chunk_are_summed_over():
  """One token of the last chunk is given: its marginal is known."""
  items = [(it, [(texts[0][0], 0, 0)]) for it, texts in _items()[:100]]
  terms = candidate_terms(
    _BINDING,
    {},
    _rows(items, num_last=1),
    CandidateSettings(num_samples=512),
    batch_size=100,
  )
  exact = np.array(
    [
      _MODEL.table[context[-2] * 3 + context[-1]][
        _MODEL.chunks[:, 0] == texts[0][0]
      ].sum()
      for context, texts in items
    ]
  )
  for name in ("kernel", "decoder", "match"):
    found = [
      np.exp(likelihood.ESTIMATES[name](it, 512, None)[0]) for it in terms
    ]
    error = (np.array(found) - exact) / np.sqrt(
      exact * (1 - exact) / 512 + 1e-4
    )
    assert np.abs(error).max() < 5 and abs(error.mean()) < 1, name


def test_open_tokens_are_those_that_samples_go_on_with():
  """All samples are of one chunk: its beginning stands for all of it."""
  chunk = _MODEL.chunks[14]
  noise = np.random.default_rng(0).normal(size=(1, 1, 8, _MODEL.means.shape[1]))
  latents = _MODEL.means[14] + np.exp(_MODEL.log_stds[14]) * noise
  keys = jax.random.split(jax.random.key(0), (1, 1))

  def found(tokens, num_real, partial):
    return compare(
      _MODEL,
      jnp.asarray(latents, jnp.float32),
      jnp.reshape(jnp.array(tokens), (1, 1, 3)),
      jnp.full((1, 1), num_real),
      keys,
      partial,
    )

  whole = found(chunk, 3, "marginal")
  begun = found([chunk[0], 0, 0], 1, "marginal")
  filled = found([chunk[0], 0, 0], 1, "end")
  for name in ("energy", "distances", "nats", "is_match"):
    np.testing.assert_allclose(begun[name], whole[name], err_msg=name)
  assert filled["energy"][0, 0, -1] > 2 * whole["energy"][0, 0, -1]


def test_a_candidate_does_not_depend_on_the_others():
  rows = _rows(_items()[:5])
  settings = CandidateSettings(num_samples=64)
  alone = candidate_terms(_BINDING, {}, rows[7:8], settings, batch_size=2)[0]
  for name in ("distances", "energy", "is_match", "is_top"):
    np.testing.assert_allclose(
      getattr(alone, name), getattr(_found()[7], name), rtol=1e-5
    )
