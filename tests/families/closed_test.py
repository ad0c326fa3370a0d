"""Tests that document ends inside chunks are trained on and scored."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.data.batch import chunk_targets, close
from calm_jax.evaluation.ngram import NgramModel, ngram_columns
from calm_jax.evaluation.positions import select_positions
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.evaluation.reconstruction import reconstruction_columns
from calm_jax.families import family_of
from calm_jax.losses.mean import compute
from calm_jax.randomness import stream_key
from tests.training import tiny

_KEY = stream_key(3, "test")
_END, _BEGIN = tiny.VOCABULARY.end_id, tiny.VOCABULARY.begin_id


def _experiment(stage, close_chunks):
  config = tiny.experiment(stage)
  return dataclasses.replace(
    config, data=dataclasses.replace(config.data, close_chunks=close_chunks)
  )


def _open_batch(config):
  """Some chunks hold an end id in front of a begin id."""
  batch = tiny.batch(config)
  batch.token_mask[:] = batch.tokens != _BEGIN
  batch.tokens[1:5, 3] = [_END, _BEGIN]
  batch.token_mask[1:5, 3] = [True, False]
  return batch


def _closed_batch(batch):
  """The same text as if it had been closed before it came here."""
  targets = chunk_targets(batch, _END)
  return batch._replace(tokens=targets.tokens, token_mask=targets.mask)


def _run(config, batch):
  frozen = (
    tiny.params(config.autoencoder, seed=2) if config.autoencoder else None
  )
  objective = jax.jit(family_of(config.model).objective(config))
  # Larger parameters, so that what a chunk holds shows in the loss.
  params = jax.tree.map(lambda x: 4 * x, tiny.params(config.model))
  total, means = objective(params, frozen, batch, _KEY)
  return (
    float(total),
    compute(jax.device_get(means)),
    float(means["loss"].count),
  )


@pytest.mark.parametrize("stage", ["autoencoder", "next_vector"])
def test_closed_chunks_count_with_their_targets(stage):
  config = _experiment(stage, True)
  batch = _open_batch(config)
  total, values, count = _run(config, batch)
  _, _, without = _run(_experiment(stage, False), batch)
  assert count == without + 4
  closed = _closed_batch(batch)
  expected, _, _ = _run(_experiment(stage, False), closed)
  if stage == "autoencoder":
    assert total == expected
  else:
    # What the model reads is not closed, so what follows there differs.
    assert total != expected and np.isfinite(total)
    assert np.isfinite(list(values.values())).all()


def test_targets_are_closed_and_inputs_are_not():
  config = _experiment("next_vector", True)
  config.model.inputs = "latent"  # the posterior is what the model reads, too
  batch = _open_batch(config)
  # Beyond the closed chunks nothing is left to predict.
  for_closed = batch._replace(token_mask=batch.token_mask.copy())
  for_closed.token_mask[:, 4:] = False
  for_closed.token_mask[0] = for_closed.token_mask[5:] = False
  total, _, count = _run(config, for_closed)
  assert count == 4 * 3
  plain = _experiment("next_vector", False)
  plain.model.inputs = "latent"
  # h_3 reads chunk 3 and predicts chunk 4, which does not count here, so that
  # closing the text itself changes no input that matters.
  closed = _closed_batch(for_closed)
  expected, _, _ = _run(plain, closed)
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_reconstruction_counts_closed_chunks():
  config = _experiment("autoencoder", True)
  batch = _open_batch(config)
  params = tiny.params(config.model)
  columns = lambda batch, closing_id: reconstruction_columns(
    config.model, params, [batch], 0, closing_id
  )[0]
  found = columns(batch, config.closing_id)
  expected = columns(_closed_batch(batch), None)
  for name in expected:
    np.testing.assert_allclose(found[name], expected[name], err_msg=name)
  assert found["count"].sum() == columns(batch, None)["count"].sum() + 4


def test_places_end_in_a_closed_chunk_or_not_at_all():
  mask = np.ones((1, 8, 2), bool)
  mask[0, 4, 1] = False  # a begin id behind an end id
  target = np.ones((1, 8, 2), bool)
  paper = select_positions("paper", row_length=16, chunk_size=2)
  grid = select_positions("grid:4", row_length=16, chunk_size=2)
  # Places are pairs of chunks; chunk 4 may be the second of one.
  scored = dict(
    zip(paper.chunk_ids + 1, paper.is_scored(mask, target)[0], strict=True)
  )
  assert scored == {1: 1, 2: 1, 3: 1, 4: 0, 5: 1, 6: 1}
  assert not paper.is_scored(mask)[0][2]
  np.testing.assert_array_equal(
    grid.is_scored(mask, target), grid.is_scored(mask)
  )


def test_predictions_are_compared_with_closed_chunks():
  config = _experiment("next_vector", True)
  config = dataclasses.replace(
    config, data=dataclasses.replace(config.data, row_length=32)
  )
  config.autoencoder.chunk_size = config.model.chunk_size = 4
  batch = tiny.batch(config)
  batch.token_mask[:] = batch.tokens != _BEGIN
  batch.tokens[2:6, 3] = [_END, _BEGIN, 1, 2]
  batch.token_mask[2:6, 3] = [True, False, True, True]
  params, frozen = (
    tiny.params(config.model),
    tiny.params(config.autoencoder, seed=2),
  )
  # So that end ids are drawn in every place.
  frozen["embedding"]["embedding"][_END] *= 5
  scores = {}
  for close_chunks in (False, True):
    here = dataclasses.replace(
      config, data=dataclasses.replace(config.data, close_chunks=close_chunks)
    )
    sampler = family_of(here.model).sampler_fn(here)(
      {"model": params, "autoencoder": frozen, "noise_scale": 1.0}
    )
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(50, 8)))
    drawn = np.asarray(sampler.decode(latents))
    if close_chunks:
      np.testing.assert_array_equal(drawn, close(scores["drawn"], _END))
      assert (drawn != scores["drawn"]).any()
    scores["drawn"] = drawn
    scores_fn = family_of(here.model).make_scores_fn(
      here, PredictionSettings(num_samples=3)
    )
    scores[close_chunks] = scores_fn(params, frozen, [batch])
  found, expected = (scores[it]["num_positions"] for it in (True, False))
  assert found == expected + 4
  assert scores[True]["energy_loss"] != scores[False]["energy_loss"]


def test_an_ngram_model_is_scored_at_the_same_places():
  config = _experiment("next_vector", True)
  batch = tiny.batch(config)
  batch.token_mask[:] = batch.tokens != _BEGIN
  batch = batch._replace(
    tokens=batch.tokens.reshape(8, 4, 4),
    token_mask=batch.token_mask.reshape(8, 4, 4),
  )
  batch.tokens[2:6, 2] = [_END, _BEGIN, 1, 2]
  batch.token_mask[2:6, 2] = [True, False, True, True]
  model = NgramModel(np.full(50, _END, np.int32), 0, 40)
  columns = lambda closing_id: ngram_columns(
    model,
    [batch],
    context_length=0,
    num_samples=2,
    seed=0,
    closing_id=closing_id,
  )
  found, without = columns(_END), columns(None)
  assert found["count"].sum() == without["count"].sum() + 4
  # It says nothing but the end, and so is right about every closed chunk.
  assert found["accuracy_4"].sum() == without["accuracy_4"].sum() + 4
