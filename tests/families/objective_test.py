"""Tests what each family minimises: what counts, and closed forms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.autoencoder import Autoencoder, Posterior
from calm_jax.config import DiffusionHeadConfig, FlowHeadConfig
from calm_jax.families import build_model, family_of
from calm_jax.families.autoencoder import (
  autoencoder_objective,
  dead_dimensions,
  rebuilt_tokens,
)
from calm_jax.families.next_vector import next_vector_objective
from calm_jax.losses.mean import compute
from calm_jax.model.heads import HeadLoss
from calm_jax.randomness import stream_key
from tests.cached import cached
from tests.perturbation import bind, relative_error
from tests.training import tiny

_KEY = stream_key(3, "test")


@cached
def _stage(stage):
  """Config, random parameters, frozen ones, and the compiled objective."""
  config = tiny.experiment(stage)
  frozen = (
    tiny.params(config.autoencoder, seed=2) if config.autoencoder else None
  )
  return (
    config,
    tiny.params(config.model),
    frozen,
    jax.jit(family_of(config.model).objective(config)),
  )


def _full_chunks(batch):
  return batch.token_mask.all(axis=-1)


def _nats(logits, labels, scored):
  """−log softmax over the scored ids, in float64."""
  logits = np.where(scored, np.float64(logits), -np.inf)
  top = logits.max(axis=-1, keepdims=True)
  norm = top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))
  return norm - np.take_along_axis(logits, labels[..., None], -1)[..., 0]


def _scored(config):
  ids = np.arange(config.vocabulary.padded_size)
  return (ids < config.vocabulary.size) & (ids != config.vocabulary.begin_id)


@pytest.mark.parametrize("stage", tiny.STAGES)
def test_only_whole_chunks_of_real_text_count(stage):
  config, params, frozen, objective = _stage(stage)
  batch = tiny.batch(config)
  total, sums = objective(params, frozen, batch, _KEY)
  counted = _full_chunks(batch)
  if stage != "autoencoder":
    counted = counted[:, 1:]  # the first chunk is never predicted
  assert float(sums["loss"].count) == counted.sum()
  assert float(total) == float(sums["loss"].total)
  values = compute(jax.device_get(sums))
  assert all(np.isfinite(value) for value in values.values())


@pytest.mark.parametrize("stage", tiny.STAGES)
def test_a_row_gives_what_it_gives_elsewhere(stage):
  config, params, frozen, objective = _stage(stage)
  batch = tiny.batch(config)
  whole, _ = objective(params, frozen, batch, _KEY)
  order = np.array([5, 1, 3, 6, 7, 0, 4, 2])
  moved = jax.tree.map(lambda x: x[order], batch)
  is_first = np.arange(8)[:, None, None] < 4
  parts = [
    objective(
      params,
      frozen,
      moved._replace(token_mask=moved.token_mask & half),
      _KEY,
    )[0]
    for half in (is_first, ~is_first)
  ]
  np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)


def test_uncounted_chunks_change_nothing_in_the_autoencoder():
  config, params, _, _ = _stage("autoencoder")
  objective = jax.jit(
    jax.grad(family_of(config.model).objective(config), has_aux=True)
  )
  batch = tiny.batch(config)
  counted = _full_chunks(batch)[..., None]
  # Begin ids are never scored; as labels they would give infinite nats.
  tokens = np.where(counted, batch.tokens, tiny.VOCABULARY.begin_id)
  assert (tokens != batch.tokens).any()
  expected = objective(params, None, batch, _KEY)
  found = objective(params, None, batch._replace(tokens=tokens), _KEY)
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert jnp.isfinite(a).all()
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_autoencoder_loss_is_its_equation():
  config, params, _, _ = _stage("autoencoder")
  model = dataclasses.replace(
    config.model, token_mask_rate=0.0, latent_dropout_rate=0.0, kl_weight=0.3
  )
  # Without spread the sampled latent is the mean, and nothing is random.
  posterior = params["encoder"]["posterior"]
  size = model.latent_size
  params = jax.tree.map(lambda x: x, params)
  params["encoder"]["posterior"] = {
    "kernel": posterior["kernel"] * (np.arange(2 * size) < size),
    "bias": np.where(np.arange(2 * size) < size, posterior["bias"], -20.0),
  }
  module = Autoencoder(model)
  batch = tiny.batch(config)
  objective = jax.jit(functools.partial(autoencoder_objective, module))
  total, sums = objective(params, None, batch, _KEY)

  apply = bind(module, params)
  mean = apply(batch.tokens, method="encode").mean
  counted = _full_chunks(batch)
  nats = _nats(apply(mean, method="logits"), batch.tokens, _scored(model))
  mean = np.float64(mean)
  kl = (mean**2 + np.exp(-40.0) - 1 + 40.0) / 2
  clipped = np.maximum(kl, model.kl_floor).sum(axis=-1)
  expected = nats.sum(axis=-1) + 0.3 * clipped
  np.testing.assert_allclose(total, expected[counted].sum(), rtol=1e-5)
  values = compute(jax.device_get(sums))
  np.testing.assert_allclose(
    values["cross_entropy"], nats.mean(axis=-1)[counted].mean(), rtol=1e-5
  )
  np.testing.assert_allclose(
    values["kl"], kl.sum(axis=-1)[counted].mean(), rtol=1e-5
  )
  variance = mean[counted].var(axis=0)
  assert values["dead_dimensions"] == (variance < 0.01).sum()


class _Recorder:
  """Stands for an autoencoder whose latents are all one."""

  def __init__(self, config):
    self.config = config
    self.calls = []

  def apply(self, variables, *inputs, method):
    self.calls.append((method, inputs))
    if method == "encode":
      shape = (*inputs[0].shape[:-1], self.config.latent_size)
      return Posterior(jnp.ones(shape), jnp.full(shape, -30.0))
    nats = jnp.zeros((*inputs[0].shape[:-1], self.config.chunk_size))
    return (nats.sum(), nats) if method == "cross_entropy_sum" else nats


def test_both_noises_have_their_rates_and_labels_stay_clean():
  config = tiny.experiment("autoencoder", batch_size=64, num_chunks=64)
  recorder = _Recorder(config.model)
  batch = tiny.batch(config)
  autoencoder_objective(recorder, None, None, batch, _KEY)
  (_, (tokens, is_masked)), (_, (latents, labels, _)) = recorder.calls[:2]
  np.testing.assert_array_equal(tokens, batch.tokens)
  counted = _full_chunks(batch)
  np.testing.assert_array_equal(labels[counted], batch.tokens[counted])
  rate = float(is_masked.mean())
  assert abs(rate - 0.15) < 4 * (0.15 * 0.85 / is_masked.size) ** 0.5
  kept = np.asarray(latents) > 0.5
  np.testing.assert_allclose(latents[kept], 1 / 0.85, rtol=1e-6)
  np.testing.assert_array_equal(latents[~kept], 0)
  assert abs(kept.mean() - 0.85) < 4 * (0.15 * 0.85 / kept.size) ** 0.5
  rebuilt_tokens(recorder, None, batch, _KEY)
  # The measured accuracy sees the clean tokens of every eighth chunk.
  (method, (tokens,)), _ = recorder.calls[2:]
  assert method == "encode"
  np.testing.assert_array_equal(tokens, batch.tokens[:, ::8])


def test_hidden_i_is_scored_against_chunk_i_plus_1():
  config, _, frozen, _ = _stage("next_vector")
  autoencoder = Autoencoder(config.autoencoder)
  batch = tiny.batch(config)
  posterior = bind(autoencoder, frozen)(batch.tokens, method="encode")
  seen = {}

  class Model:
    def apply(self, variables, *inputs, method):
      if method == "hidden":
        seen["latents"] = inputs[1]
        return jnp.zeros((*batch.tokens.shape[:2], 3))
      _, mean, log_std, _ = inputs
      return HeadLoss(mean[..., 0] + 2 * log_std[..., 1], {})

  total, _ = next_vector_objective(
    Model(), autoencoder, None, frozen, batch, _KEY
  )
  values = posterior.mean[..., 0] + 2 * posterior.log_std[..., 1]
  expected = values[:, 1:][_full_chunks(batch)[:, 1:]].sum()
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  np.testing.assert_allclose(seen["latents"], posterior.mean, rtol=1e-4)


def test_nothing_flows_into_the_frozen_autoencoder():
  config, params, frozen, _ = _stage("next_vector")
  objective = family_of(config.model).objective(config)
  gradient = jax.jit(jax.grad(objective, argnums=1, has_aux=True))
  found, _ = gradient(params, frozen, tiny.batch(config), _KEY)
  assert all(not leaf.any() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
  ("stage", "changes", "remat"),
  [
    ("autoencoder", {}, "full"),
    ("token", {"attention_implementation": "pallas"}, "dots"),
    ("next_vector", {}, "dots"),
    ("next_vector", {}, "full"),
    ("next_vector", {"head": FlowHeadConfig(num_mlp_layers=1)}, "full"),
    ("next_vector", {"head": DiffusionHeadConfig(num_mlp_layers=1)}, "full"),
  ],
)
def test_remat_changes_no_gradient(stage, changes, remat):
  def gradient(remat):
    config = tiny.experiment(stage)
    model = dataclasses.replace(config.model, **changes, remat=remat)
    config = dataclasses.replace(config, model=model)
    objective = family_of(model).objective(config)
    frozen = config.autoencoder and tiny.params(config.autoencoder, seed=2)
    arguments = tiny.params(model), frozen, tiny.batch(config), _KEY
    return jax.jit(jax.grad(objective, has_aux=True))(*arguments)[0]

  plain, recomputed = gradient("none"), gradient(remat)
  for a, b in zip(
    jax.tree.leaves(plain), jax.tree.leaves(recomputed), strict=True
  ):
    assert relative_error(b, a) < 1e-5


def test_token_loss_is_the_mean_of_next_token_nats():
  config, params, _, objective = _stage("token")
  batch = tiny.batch(config)
  _, sums = objective(params, None, batch, _KEY)
  logits = bind(build_model(config.model), params)(batch.tokens)
  labels = batch.tokens[:, 1:, 0]
  nats = _nats(logits[:, :-1], labels, _scored(config.model))
  counted = _full_chunks(batch)[:, 1:]
  assert (
    relative_error(compute(jax.device_get(sums))["loss"], nats[counted].mean())
    < 1e-5
  )


def test_dead_dimensions_are_those_that_do_not_vary():
  mean = np.zeros((2, 3, 4), np.float32)
  mean[..., 1] = [[0, 1, 2], [3, 4, 5]]
  mean[0, 0, 2] = 9  # of a chunk that does not count, as the NaN there
  mean[0, 0, 3] = np.nan
  is_counted = jnp.ones((2, 3), bool).at[0, 0].set(False)

  def count(mean):
    mean = jnp.asarray(mean)
    posterior = Posterior(mean, jnp.zeros_like(mean))
    return compute({"": dead_dimensions(posterior, is_counted)})[""]

  assert count(mean) == 3
  mean[1, 1, 3] = np.nan
  assert np.isnan(count(mean))
