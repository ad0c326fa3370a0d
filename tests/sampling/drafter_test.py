"""Tests sampling/drafter.py: from its cache, and reading texts anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.families import family_of
from calm_jax.sampling.context import with_room
from calm_jax.sampling.drafter import Drafter, DraftSettings, Texts
from tests.sampling.tiny_runs import calm_run

_END = 257
_NUM = 30  # tokens
_STARTS = np.array([9, 6])  # tokens of the two prompts
_STEPS = np.array([[2, 5], [1, 1], [5, 3], [4, 4]])


def _sampler(run):
  family = family_of(run.config.model)
  params = family.bind_params(run.params, run.autoencoder)
  return family.sampler_fn(run.config)(params)


def _texts(size):
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 256, (2, _NUM)).astype(np.int32)
  return np.pad(tokens, ((0, 0), (size - 1, 0)), constant_values=_END)


def _anew(sampler, tokens, length, cut, alignment):
  """The hidden state after one text, its chunks written out; [D]."""
  size = sampler.chunk_size
  if alignment == "fill":
    places = list(range((length - 1) % size, length, size))
  else:
    places = [*range(cut, length - 1, size), length - 1]
  # Place p ends in column p + K − 1.
  chunks = np.stack([tokens[place : place + size] for place in places])
  segments = np.zeros((1, len(chunks)), np.int32)
  return sampler.hidden(jnp.asarray(chunks)[None], segments)[0, -1]


@pytest.mark.parametrize("alignment", ["fill", "overlap"])
def test_goes_on_from_any_token(alignment, monkeypatch):
  run = calm_run(4, num_chunks=40)
  sampler = _sampler(run)
  seen = []

  def draw(hidden, keys, sample_ids):
    seen.append(hidden)
    return jnp.zeros((len(hidden), len(sample_ids), 4), jnp.int32)

  monkeypatch.setattr(sampler, "draw", draw)
  drafter = Drafter(sampler, 3, alignment)
  tokens = jnp.asarray(_texts(4))
  prompts = Texts(tokens[:, : 3 + max(_STARTS)], jnp.asarray(_STARTS))
  cache, cut = drafter.start(prompts)
  cache = with_room(cache, _NUM - max(_STARTS) + 5)
  tokens = jnp.pad(tokens, ((0, 0), (0, 5)), constant_values=_END)
  keys = jax.random.split(jax.random.key(0), 2)
  length, num_read = _STARTS, _STARTS - 1
  for step in [np.zeros(2, int), *_STEPS]:
    length = length + step
    drafts, cache = drafter.draft(
      Texts(tokens, jnp.asarray(length)),
      cut,
      cache,
      jnp.asarray(num_read),
      keys,
    )
    assert drafts.shape == (2, 3, 4)
    num_read = length
    for row in range(2):
      expected = _anew(
        sampler,
        np.asarray(tokens[row]),
        int(length[row]),
        int(cut[row]),
        alignment,
      )
      np.testing.assert_allclose(seen[-1][row], expected, atol=2e-5)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"num_drafts": 0}, "num_drafts is 0; at least 1"),
    ({"num_nodes": -1}, "num_nodes is -1"),
    ({"noise_scale": -0.5}, "noise_scale is -0.5"),
    ({"noise_scale": 1e39}, "drafter's noise_scale is 1e"),
    ({"alignment": "left"}, "fill, overlap"),
  ],
)
def test_refuses(settings, message):
  with pytest.raises(ValueError, match=message):
    DraftSettings(**settings)
