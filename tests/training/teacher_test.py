"""Tests training/teacher.py: what a token model writes as targets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.config import MeshConfig
from calm_jax.data.batch import chunk_targets
from calm_jax.families import family_of
from calm_jax.randomness import chunk_keys, stream_key
from calm_jax.sampling.token_sampler import TokenSampler
from calm_jax.training import sharding
from calm_jax.training.teacher import Teacher, following_chunks, with_targets
from tests.training import tiny

_KEY = stream_key(0, "test")


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
  found = np.asarray(following_chunks(sampler, tokens, keys))
  read = jax.jit(sampler.hidden)
  for chunk in range(length):
    text = tokens.reshape(8, -1)[:, : (chunk + 1) * size]
    for place in range(size):
      row = np.concatenate([text, found[:, chunk, :place]], axis=1)
      begins = np.cumsum(row == tiny.VOCABULARY.begin_id, axis=1)
      hidden = read(row[..., None], begins.astype(np.int32))[:, -1]
      place_keys = jax.vmap(jax.random.fold_in, (0, None))(
        keys[:, chunk], place
      )
      drawn = sampler.draw(hidden, place_keys, jnp.zeros(1, jnp.uint32))
      np.testing.assert_array_equal(found[:, chunk, place], drawn[:, 0, 0])
  assert len(np.unique(found)) > 10


def test_a_share_of_whole_chunks_is_written_by_the_teacher():
  batch, sampler = _batch(), _sampler()
  taught = with_targets(sampler, batch, _KEY, 1.0).target_tokens
  keys = chunk_keys(_KEY, batch.row_ids, 8)
  following = following_chunks(sampler, batch.tokens, keys)
  is_whole = batch.token_mask.all(axis=-1)
  is_whole[:, 0] = False
  expected = np.roll(following, 1, axis=1)
  expected = np.where(is_whole[..., None], expected, batch.tokens)
  np.testing.assert_array_equal(taught, expected)
  none = with_targets(sampler, batch, _KEY, 0.0).target_tokens
  np.testing.assert_array_equal(none, batch.tokens)
  some = np.asarray(with_targets(sampler, batch, _KEY, 0.3).target_tokens)
  is_taught = (some != batch.tokens).any(axis=-1)
  is_own = ~is_taught
  np.testing.assert_array_equal(some[is_taught], taught[is_taught])
  np.testing.assert_array_equal(some[is_own], batch.tokens[is_own])
  assert 0.15 < is_taught[is_whole].mean() < 0.45


def test_draws_belong_to_the_row_and_the_temperature_is_the_teachers():
  batch, cold = _batch(), _sampler(temperature=1e-4)
  whole = with_targets(_sampler(), batch, _KEY, 1.0).target_tokens
  half = jax.tree.map(lambda x: x[4:], batch)
  half = with_targets(_sampler(), half, _KEY, 1.0).target_tokens
  np.testing.assert_array_equal(whole[4:], half)
  other = stream_key(1, "test")
  greedy = [with_targets(cold, batch, key, 1.0)[-1] for key in (_KEY, other)]
  np.testing.assert_array_equal(*greedy)
  assert not np.array_equal(
    whole, with_targets(_sampler(), batch, other, 1.0).target_tokens
  )


@pytest.mark.parametrize(
  "mesh",
  [MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2)],
  ids=["rows", "cube"],
)
def test_targets_do_not_depend_on_the_mesh(mesh):
  config = tiny.experiment("next_vector")
  config.teacher = tiny.experiment("token").model
  params = _params(config.teacher)
  found = []
  for each in (MeshConfig(data=1, fsdp=1, tensor=1, sequence=1), mesh):
    num_devices = 1 if each is not mesh else 8
    devices = sharding.make_mesh(each, jax.devices()[:num_devices])
    teacher = Teacher(config, sharding.global_copy(devices, params), devices)
    batch = sharding.global_batch(devices, tiny.batch(config), 1)
    found.append(np.asarray(teacher(batch, 3).target_tokens))
  np.testing.assert_array_equal(*found)
  shapes = sharding.batch_shapes(config, devices)
  assert shapes.target_tokens.shape == found[0].shape


def test_targets_are_scored_and_the_text_is_read():
  config = tiny.experiment("next_vector")
  params, frozen = tiny.params(config.model), tiny.params(config.autoencoder, 2)
  objective = jax.jit(family_of(config.model).objective(config))
  batch = tiny.batch(config)
  loss = lambda batch: objective(params, frozen, batch, _KEY)[0]
  same = batch._replace(target_tokens=batch.tokens)
  np.testing.assert_allclose(loss(same), loss(batch), rtol=1e-6)
  # The last chunk is a target and nothing that is read.
  changed = np.array(batch.tokens)
  changed[:, -1] = (changed[:, -1] + 1) % 38
  as_target = loss(batch._replace(target_tokens=changed))
  as_text = loss(batch._replace(tokens=changed))
  np.testing.assert_allclose(as_target, as_text, rtol=1e-6)
  assert abs(as_target - loss(batch)) > 1e-3
  changed[:, 0] = (changed[:, 0] + 1) % 38
  np.testing.assert_allclose(
    loss(batch._replace(target_tokens=changed)), as_target, rtol=1e-6
  )


def test_a_document_that_the_teacher_ends_is_closed():
  batch = _batch(3, 4)
  end_id = tiny.VOCABULARY.end_id
  taught = np.array(batch.tokens)
  taught[:, 1] = [5, end_id, 6]
  mask = np.ones_like(batch.token_mask)
  batch = batch._replace(target_tokens=taught, token_mask=mask)
  closed = chunk_targets(batch, end_id).tokens[:, 1]
  np.testing.assert_array_equal(closed, [[5, end_id, end_id]] * 8)
