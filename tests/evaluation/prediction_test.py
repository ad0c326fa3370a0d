"""Tests evaluation/prediction.py on tiny models, position by position."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.autoencoder import Autoencoder
from calm_jax.data.batch import Row, make_batch
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from calm_jax.families import family_of
from calm_jax.losses.energy import energy_loss
from calm_jax.model import TokenModel
from calm_jax.randomness import position_keys, stream_key
from tests.cached import cached
from tests.sampling.tiny_runs import calm_run, token_run

_LENGTH = 12
_SETTINGS = PredictionSettings(num_samples=3, permuted=True)


def _batch(run, row_ids=(0, 1, 2), size=3):
  """Rows of text, the last one short, padded to `size` of them."""
  generator = np.random.default_rng(0)
  # So few ids that predictions are right now and then.
  rows = generator.integers(97, 101, (3, _LENGTH)).astype(np.int32)
  lengths = [_LENGTH, _LENGTH, 10]
  return make_batch(
    [Row(rows[i][: lengths[i]], 0, i) for i in row_ids],
    run.tokenizer.vocabulary,
    row_length=_LENGTH,
    chunk_size=run.config.model.chunk_size,
    batch_size=size,
  )


@cached
def _bound(run_fn, **kwargs):
  run = run_fn(num_chunks=_LENGTH, **kwargs)
  params = family_of(run.config.model).bind_params(run.params, run.autoencoder)
  return run, family_of(run.config.model).sampler_fn(run.config), params


def _columns(run_fn, batches, settings=_SETTINGS, **kwargs):
  _, sampler_fn, params = _bound(run_fn, **kwargs)
  return prediction_columns(sampler_fn, params, batches, settings)


def _read(run_fn, rows, **kwargs):
  """Hidden states of rows [R, n, K], uncached."""
  _, sampler_fn, params = _bound(run_fn, **kwargs)
  return _compiled_read(sampler_fn, params, rows)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_read(sampler_fn, params, rows):
  segments = jnp.zeros(rows.shape[:2], jnp.int32)
  return sampler_fn(params).hidden(rows, segments)


@functools.partial(jax.jit, static_argnums=0)
def _compiled_draw(sampler_fn, params, hidden, key):
  ids = jnp.arange(3, dtype=jnp.uint32)
  return sampler_fn(params).draw(hidden[None], key[None], ids)[0]


def _keys(stream, row, chunk):
  key = stream_key(0, stream)
  ids = (np.array([row], np.uint32), np.array([chunk], np.uint32))
  return position_keys(key, *ids)[0, 0]


def test_chunks_of_two_follow_their_own_paths():
  """One position after another, reading every path from its beginning."""
  model = {"chunk_size": 2, "scale": 0.1}
  run, sampler_fn, params = _bound(calm_run, **model)
  draw = functools.partial(_compiled_draw, sampler_fn, params)
  batch = _batch(run)
  tokens = batch.tokens
  for i in range(5):  # text that the model itself might write
    hidden = _read(calm_run, tokens, **model)[:, i]
    for row in range(3):
      tokens[row, i + 1] = draw(hidden[row], _keys("text", row, i))[0]
  found = _columns(calm_run, [batch], **model)
  hidden = _read(calm_run, tokens, **model)
  expected = {name: np.zeros(3) for name in found}
  for row in range(3):
    drawn = [
      np.asarray(draw(hidden[row, i], _keys("evaluation_noise", row, i)))
      for i in range(5)
    ]
    for i in range(4):  # after chunk i; the last row has 5 chunks of text
      if row == 2 and i > 2:
        continue
      expected["count"][row] += 1
      right = [
        (drawn[i + j] == tokens[row, i + 1 + j]).cumprod(axis=-1).mean(axis=0)
        for j in range(2)
      ]
      accuracy = [*right[0], *(right[0][1] * right[1])]
      ahead = []
      for sample in drawn[i]:
        path = np.zeros((1, 6, 2), np.int32)
        path[0, : i + 1] = tokens[row, : i + 1]
        path[0, i + 1] = sample
        key = jax.random.fold_in(_keys("evaluation_path", row, i), 0)
        after = _read(calm_run, path, **model)[0, i + 1]
        ahead.append(np.asarray(draw(after, key)))
      paths = [(*drawn[i][s].tolist(), *ahead[s][s].tolist()) for s in range(3)]
      for n in range(1, 5):
        same = [
          paths[s][:n] == paths[t][:n]
          for s in range(3)
          for t in range(3)
          if s != t
        ]
        expected[f"accuracy_{n}"][row] += accuracy[n - 1]
        expected[f"collision_{n}"][row] += np.mean(same)
  assert expected["collision_4"].sum() > 0
  assert expected["accuracy_3"].sum() > 0
  for name in expected:
    if name[:5] in ("count", "accur", "colli") and "permuted" not in name:
      np.testing.assert_allclose(
        found[name], expected[name], rtol=1e-5, err_msg=name
      )


def test_token_models_are_scored_by_their_probabilities():
  run, _, params = _bound(token_run)
  batch = _batch(run)
  found = _columns(token_run, [batch])
  model = TokenModel(run.config.model)
  hidden = model.apply(
    {"params": params["model"]}, batch.tokens, method="hidden"
  )
  logits = model.apply({"params": params["model"]}, hidden, method="logits")
  log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
  labels = batch.tokens[..., 0]
  lengths = [_LENGTH, _LENGTH, 10]
  for row in range(3):
    places = np.arange(0, lengths[row] - 4)
    assert found["count"][row] == len(places)
    right = np.array(
      [[log_p[row, i + j, labels[row, i + j + 1]] for j in range(4)]
       for i in places]
    )  # fmt: skip
    for n in range(1, 5):
      accuracy = np.exp(right[:, :n].sum(axis=-1)).sum()
      np.testing.assert_allclose(
        found[f"accuracy_{n}"][row], accuracy, rtol=1e-4
      )
    np.testing.assert_allclose(
      found["collision_1"][row], np.exp(2 * log_p[row, places]).sum(), rtol=1e-4
    )
    np.testing.assert_allclose(
      found["cross_entropy"][row], -right[:, 0].sum(), rtol=1e-4
    )
    # The control reads the window before: the first one reads the last.
    other = row - 1 if row else 2
    nats = -log_p[other, places, labels[row, places + 1]].sum()
    np.testing.assert_allclose(
      found["cross_entropy_permuted"][row], nats, rtol=1e-4
    )


def test_energy_loss_is_that_of_the_sampled_latents():
  run, sampler_fn, params = _bound(calm_run)
  batch = _batch(run)
  found = _columns(calm_run, [batch])
  hidden = _read(calm_run, batch.tokens)
  keys = position_keys(
    stream_key(0, "evaluation_noise"),
    batch.row_ids,
    np.arange(3, dtype=np.uint32),
  )
  sampler = sampler_fn(params)
  ids = jnp.arange(3, dtype=jnp.uint32)
  latents = sampler.draw_latents(hidden, keys, ids)[:, :2]
  posterior = Autoencoder(run.config.autoencoder).apply(
    {"params": run.autoencoder}, batch.tokens, method="encode"
  )
  target_keys = position_keys(
    stream_key(0, "evaluation_targets"),
    batch.row_ids,
    np.arange(2, dtype=np.uint32),
  )

  def losses(latents):
    mean, log_std = (x[:, 1:] for x in posterior)
    loss, _ = energy_loss(
      latents,
      mean,
      log_std,
      target_keys,
      num_targets=100,
      implementation="reference",
    )
    # The short row has two whole chunks of text and half of a third.
    is_scored = np.array([[1, 1], [1, 1], [1, 0]])
    return (loss * is_scored).sum(axis=-1)

  np.testing.assert_allclose(found["energy_loss"], losses(latents), rtol=1e-4)
  permuted = losses(jnp.roll(latents, 1, axis=0))
  np.testing.assert_allclose(found["energy_loss_permuted"], permuted, rtol=1e-4)


def test_last_chunk_is_read_alone():
  run, sampler_fn, params = _bound(calm_run)
  batch = _batch(run)
  settings = PredictionSettings(num_samples=3, last_chunk=True)
  model = dataclasses.replace(run.config.model, use_segment_mask=True)
  segment_fn = family_of(run.config.model).sampler_fn(
    dataclasses.replace(run.config, model=model)
  )
  draw = functools.partial(_compiled_draw, sampler_fn, params)
  tokens = batch.tokens
  for row, i in ((0, 0), (0, 1), (1, 1)):  # text that comes up in the draws
    hidden = _read(calm_run, tokens[row : row + 1, i : i + 1])[0, 0]
    key = _keys("evaluation_noise", row, i)
    tokens[row, i + 1] = draw(hidden, key)[i]
  found = prediction_columns(sampler_fn, params, [batch], settings, segment_fn)
  plain = _columns(calm_run, [batch], PredictionSettings(num_samples=3))
  for name, values in plain.items():
    np.testing.assert_array_equal(found[name], values)
  expected = {n: np.zeros((2, 3)) for n in range(1, 5)}
  for row, i in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0)):
    hidden = _read(calm_run, tokens[row : row + 1, i : i + 1])[0, 0]
    drawn = np.asarray(draw(hidden, _keys("evaluation_noise", row, i)))
    for n in range(1, 5):
      right = (drawn[:, :n] == tokens[row, i + 1, :n]).all(axis=-1)
      same = (drawn[:, None, :n] == drawn[:, :n]).all(axis=-1)
      expected[n][:, row] += right.mean(), (same.sum() - 3) / 6
  assert expected[4][0].sum() > 0
  for n, (accuracy, collision) in expected.items():
    found_accuracy = found[f"accuracy_{n}_last_chunk"]
    np.testing.assert_allclose(found_accuracy, accuracy, rtol=1e-5)
    found_collision = found[f"collision_{n}_last_chunk"]
    np.testing.assert_allclose(found_collision, collision, rtol=1e-5)


@pytest.mark.parametrize("run_fn", [calm_run, token_run])
def test_batches_change_nothing(run_fn):
  run, _, _ = _bound(run_fn)
  whole = _columns(run_fn, [_batch(run)])
  batches = [_batch(run, ids, size=2) for ids in ((0, 1), (2,))]
  parts = _columns(run_fn, batches)
  assert parts["count"].tolist() == [*whole["count"], 0]
  for name, values in whole.items():
    np.testing.assert_allclose(
      parts[name][:3], values, rtol=1e-4, atol=1e-7, err_msg=name
    )


def test_refuses():
  with pytest.raises(ValueError, match="at least 2"):
    PredictionSettings(num_samples=1)
  with pytest.raises(ValueError, match="greedy"):
    PredictionSettings(noise_scale=0.0)
  run, _, _ = _bound(calm_run)
  with pytest.raises(ValueError, match="another row's context"):
    _columns(calm_run, [_batch(run, (0,))])


def test_contexts_come_from_other_documents():
  """Two documents over four windows, against pairs in which it is plain."""
  run, _, _ = _bound(calm_run)
  vocabulary = run.tokenizer.vocabulary
  generator = np.random.default_rng(1)
  rows = generator.integers(97, 101, (4, _LENGTH)).astype(np.int32)
  rows[[0, 2], 0] = vocabulary.begin_id
  rows[[1, 3], -1] = vocabulary.end_id

  def batches(*groups):
    return [
      make_batch(
        [Row(rows[i], 0, i) for i in group],
        vocabulary,
        row_length=_LENGTH,
        chunk_size=run.config.model.chunk_size,
        batch_size=2,
      )
      for group in groups
    ]

  found = _columns(calm_run, batches((0, 1), (2, 3)))
  np.testing.assert_array_equal(found["same_document_permuted"], np.zeros(4))
  name = "energy_loss_permuted"
  # The first ones borrow of the last window, the others of the second.
  for row, lender in ((0, 3), (1, 3), (2, 1), (3, 1)):
    pair = sorted((row, lender))
    expected = _columns(calm_run, batches(pair))[name][pair.index(row)]
    np.testing.assert_allclose(found[name][row], expected, rtol=1e-5)
  alone = _columns(calm_run, batches((2, 3)))
  np.testing.assert_array_equal(alone["same_document_permuted"], alone["count"])


@pytest.mark.parametrize("chunk_size", [2, 4])
def test_tokens_that_are_not_compared_need_not_be_read(chunk_size):
  """With other rows' contexts all are read; what both score is the same."""
  run, _, _ = _bound(calm_run, chunk_size=chunk_size)
  batches = [_batch(run)]
  plain = dataclasses.replace(_SETTINGS, permuted=False)
  found = _columns(calm_run, batches, plain, chunk_size=chunk_size)
  whole = _columns(calm_run, batches, chunk_size=chunk_size)
  assert found["collision_2"].sum() > 0
  for name, value in found.items():
    np.testing.assert_allclose(value, whole[name], rtol=1e-6, err_msg=name)
