"""Tests training/teacher.py: what a token model writes as targets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.config import MeshConfig
from calm_jax.data.batch import Targets, chunk_targets, close
from calm_jax.families import build_model, family_of, param_axes
from calm_jax.randomness import chunk_keys, stream_key
from calm_jax.sampling.token_sampler import TokenSampler
from calm_jax.training import sharding
from calm_jax.training import teacher as teacher_lib
from calm_jax.training.teacher import (
  Teacher,
  following_chunks,
  taught_targets,
)
from tests.training import tiny

_KEY = stream_key(0, "test")
_END = tiny.VOCABULARY.end_id


def _params(model):
  # Outputs that differ, and so do what is drawn after different texts.
  return jax.tree.map(lambda x: 8 * x, tiny.params(model))


def _sampler(use_segment_mask=False, **options):
  model = dataclasses.replace(
    tiny.experiment("token").model, use_segment_mask=use_segment_mask
  )
  return TokenSampler(model, _params(model), **options)


def _batch(chunk_size=2, num_chunks=8):
  """Rows of other chunks, with a document that begins inside."""
  config = tiny.experiment("token", num_chunks=num_chunks * chunk_size)
  batch = tiny.batch(config)
  shape = (-1, num_chunks, chunk_size)
  return batch._replace(
    tokens=batch.tokens.reshape(shape),
    token_mask=batch.token_mask.reshape(shape),
    segment_ids=batch.segment_ids.reshape(shape)[..., -1],
  )


@pytest.mark.parametrize("use_segment_mask", [False, True])
def test_it_goes_on_as_a_plain_reader_of_the_text_would(use_segment_mask):
  size, length = 3, 4
  sampler = _sampler(use_segment_mask)
  tokens = _batch(size, length).tokens
  keys = chunk_keys(_KEY, np.arange(8, dtype=np.uint32), length)
  follow = jax.jit(functools.partial(following_chunks, sampler))
  found = np.asarray(follow(tokens, keys))
  read = jax.jit(sampler.hidden)
  draw = jax.jit(sampler.draw)
  for chunk in range(length):
    text = tokens.reshape(8, -1)[:, : (chunk + 1) * size]
    for place in range(size):
      row = np.concatenate([text, found[:, chunk, :place]], axis=1)
      stop = row.shape[1]
      row = np.pad(row, ((0, 0), (0, (length + 1) * size - stop)))
      begins = np.cumsum(row == tiny.VOCABULARY.begin_id, axis=1)
      hidden = read(row[..., None], begins.astype(np.int32))[:, stop - 1]
      place_keys = jax.vmap(jax.random.fold_in, (0, None))(
        keys[:, chunk], place
      )
      drawn = draw(hidden, place_keys, jnp.zeros(1, jnp.uint32))
      np.testing.assert_array_equal(found[:, chunk, place], drawn[:, 0, 0])
  assert len(np.unique(found)) > 10


def _write(batch, key=_KEY, share=1.0, closing_id=None, **options):
  sampler = _sampler(**options)
  write = functools.partial(
    taught_targets, sampler, share=share, closing_id=closing_id
  )
  return jax.tree.map(np.asarray, jax.jit(write)(batch, key))


@pytest.mark.parametrize("closing_id", [None, _END])
def test_a_share_of_what_counts_is_written_by_the_teacher(closing_id):
  batch = _batch()
  batch.tokens[1, 2:4] = [[4, _END], [_END, 5]]  # the second, if it is closed
  batch.token_mask[1, 2:4] = [[True, True], [True, False]]
  text = chunk_targets(batch, closing_id)
  taught = _write(batch, closing_id=closing_id)
  keys = chunk_keys(_KEY, batch.row_ids, 8)
  following = jax.jit(functools.partial(following_chunks, _sampler()))(
    batch.tokens, keys
  )
  expected = np.roll(close(np.asarray(following), closing_id), 1, axis=1)
  counts = text.mask.all(axis=-1)
  assert counts[1, 3] == (closing_id is not None)
  counts[:, 0] = False
  expected = np.where(counts[..., None], expected, text.tokens)
  np.testing.assert_array_equal(taught.tokens, expected)
  ends = expected[..., 0] == _END
  kept = text.mask.all(axis=-1) & ~(counts & ends & (closing_id is None))
  np.testing.assert_array_equal(taught.mask.all(axis=-1), kept)
  none = _write(batch, share=0.0, closing_id=closing_id)
  jax.tree.map(np.testing.assert_array_equal, none, text)
  some = _write(batch, share=0.3, closing_id=closing_id).tokens
  is_taught = (some != text.tokens).any(axis=-1)
  np.testing.assert_array_equal(some[is_taught], taught.tokens[is_taught])
  np.testing.assert_array_equal(some[~is_taught], text.tokens[~is_taught])
  assert 0.15 < is_taught[counts].mean() < 0.45


def test_draws_belong_to_the_row_and_the_temperature_is_the_teachers():
  batch = _batch()
  whole = _write(batch).tokens
  half = _write(jax.tree.map(lambda x: x[4:], batch)).tokens
  np.testing.assert_array_equal(whole[4:], half)
  other = stream_key(1, "test")
  greedy = [_write(batch, key, temperature=1e-4) for key in (_KEY, other)]
  np.testing.assert_array_equal(greedy[0].tokens, greedy[1].tokens)
  assert not np.array_equal(whole, _write(batch, other).tokens)


@pytest.mark.parametrize(
  "mesh",
  [
    MeshConfig(data=8, fsdp=1, tensor=1, sequence=1),
    MeshConfig(data=1, fsdp=2, tensor=2, sequence=2),
  ],
  ids=["rows", "cube"],
)
def test_targets_do_not_depend_on_the_mesh(mesh, monkeypatch):
  monkeypatch.setattr(teacher_lib, "_MAX_TOKENS", 32)  # two rows at once
  config = tiny.experiment("next_vector", batch_size=16)
  config.teacher = tiny.experiment("token").model
  axes = param_axes(build_model(config.teacher))
  found = []
  for each in (MeshConfig(data=1, fsdp=1, tensor=1, sequence=1), mesh):
    num_devices = 1 if each is not mesh else 8
    devices = sharding.make_mesh(each, jax.devices()[:num_devices])
    params = _params(config.teacher)
    places = sharding.place_params(devices, params, axes).shardings
    teacher = Teacher(config, jax.device_put(params, places), devices)
    batch = sharding.global_batch(devices, tiny.batch(config), 1)
    found.append(teacher(batch, 3).targets)
  jax.tree.map(np.testing.assert_array_equal, *found)
  shapes = sharding.batch_shapes(config, devices).targets
  assert [(it.shape, it.dtype, it.sharding) for it in shapes] == [
    (it.shape, it.dtype, it.sharding) for it in found[1]
  ]


def test_targets_are_scored_and_the_text_is_read():
  config = tiny.experiment("next_vector")
  params, frozen = tiny.params(config.model), tiny.params(config.autoencoder, 2)
  objective = jax.jit(family_of(config.model).objective(config))
  batch = tiny.batch(config)
  loss = lambda batch: objective(params, frozen, batch, _KEY)[0]
  changed_to = lambda tokens: batch._replace(
    targets=Targets(tokens, batch.token_mask)
  )
  same = changed_to(batch.tokens)
  np.testing.assert_allclose(loss(same), loss(batch), rtol=1e-6)
  # The last chunk is a target and nothing that is read.
  changed = np.array(batch.tokens)
  changed[:, -1] = (changed[:, -1] + 1) % 38
  as_target = loss(changed_to(changed))
  as_text = loss(batch._replace(tokens=changed))
  np.testing.assert_allclose(as_target, as_text, rtol=1e-6)
  assert abs(as_target - loss(batch)) > 1e-3
  changed[:, 0] = (changed[:, 0] + 1) % 38
  np.testing.assert_allclose(loss(changed_to(changed)), as_target, rtol=1e-6)
