"""Tests the Brier scores in the objective of next-vector models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import config as configs
from calm_jax.families import costs, family_of
from calm_jax.families.table import build_model
from calm_jax.losses import brier
from calm_jax.losses.mean import compute
from calm_jax.randomness import chunk_keys, stream_key
from calm_jax.scaling import flops
from calm_jax.training import sharding
from calm_jax.training.step import Program
from tests.cached import cached
from tests.perturbation import bind, relative_error
from tests.training import tiny
from tests.training.gradients import mesh_gradients

_KEY = stream_key(3, "test")
_WEIGHT = 7.0


def _experiment(weight=_WEIGHT, **changes):
  config = tiny.experiment("next_vector", **changes)
  config.model = dataclasses.replace(config.model, brier_weight=weight)
  return config


@cached
def _frozen():
  return tiny.params(_experiment().autoencoder, seed=2)


@cached
def _results(weight):
  config = _experiment(weight)
  objective = family_of(config.model).objective(config)
  grad_fn = jax.jit(jax.value_and_grad(objective, has_aux=True))
  params = tiny.params(config.model)
  (total, means), gradient = grad_fn(
    params, _frozen(), tiny.batch(config), _KEY
  )
  return total, compute(jax.device_get(means)), gradient, means["loss"].count


def test_it_scores_what_the_head_draws():
  config = _experiment()
  model = bind(build_model(config.model), tiny.params(config.model))
  autoencoder = bind(build_model(config.autoencoder), _frozen())
  batch = tiny.batch(config)
  hidden = model(batch.tokens, method="hidden")
  keys = chunk_keys(_KEY, batch.row_ids, batch.tokens.shape[1])
  samples = model(hidden, keys, jnp.arange(4, dtype="uint32"), method="sample")
  scores = brier.brier_scores(
    lambda _, latents: autoencoder(latents, method="scored_logits"),
    None,
    samples,
    np.roll(batch.tokens, -1, axis=1),
    implementation="reference",
  )
  counted = np.pad(batch.token_mask.all(axis=-1)[:, 1:], ((0, 0), (0, 1)))
  total, values, _, _ = _results(_WEIGHT)
  plain = _results(0.0)[0]
  for n in range(tiny.CHUNK_SIZE):
    expected = scores[..., n][counted].mean()
    assert relative_error(values[f"soft_brier_{n + 1}"], expected) < 1e-5
  gain = _WEIGHT * scores[counted].sum()
  np.testing.assert_allclose(total, plain - gain, rtol=1e-5)
  np.testing.assert_allclose(
    values["head_loss"], plain / counted.sum(), rtol=1e-5
  )


def test_its_gradient_reaches_head_and_backbone_and_not_the_autoencoder():
  (*_, found, _), (*_, plain, _) = _results(_WEIGHT), _results(0.0)
  for part in ("head", "backbone", "chunk_embed"):
    changes = jax.tree.map(lambda a, b: np.abs(a - b).max(), found, plain)[part]
    assert all(change > 0 for change in jax.tree.leaves(changes)), part
  config = _experiment()
  objective = family_of(config.model).objective(config)
  slope, _ = jax.jit(jax.grad(objective, argnums=1, has_aux=True))(
    tiny.params(config.model), _frozen(), tiny.batch(config), _KEY
  )
  assert all(not leaf.any() for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize(
  ("num_microbatches", "block_bytes"), [(1, 2000), (2, 0)]
)
def test_a_mesh_and_microbatches_give_what_one_device_gives(
  num_microbatches, block_bytes, monkeypatch
):
  if block_bytes:  # several blocks on each device
    monkeypatch.setattr(brier, "_BLOCK_BYTES", block_bytes)
  mesh_config = configs.MeshConfig(data=2, fsdp=2, tensor=2)
  config = _experiment(mesh=mesh_config)
  program = Program(config, sharding.make_mesh(mesh_config))
  found, means = mesh_gradients(
    config, program, _frozen(), _KEY, num_microbatches
  )
  _, wanted_values, wanted, count = _results(_WEIGHT)
  values = compute(jax.device_get(means))
  for name in ("loss", "head_loss", "soft_brier_1", "soft_brier_2"):
    assert relative_error(values[name], wanted_values[name]) < 1e-5, name
  for here, there in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    assert relative_error(here, there / count) < 1e-5


def test_it_is_counted_in_training_and_in_nothing_else():
  config, plain = _experiment(), tiny.experiment("next_vector").model
  model, autoencoder = config.model, config.autoencoder
  num_samples = model.head.num_samples
  decoder = costs.generation_flops_per_token(model, autoencoder, 8, num_samples)
  counts = functools.partial(
    flops.training_flops_per_token, autoencoder=autoencoder, num_positions=8
  )
  for convention in ("paper", "executed"):
    found, before = (counts(it, convention=convention) for it in (model, plain))
    # Forward, and backward through what is frozen.
    np.testing.assert_allclose(found.pop("brier"), 2 * decoder["decode"])
    if convention == "executed":
      pairs = num_samples**2 * model.vocabulary.padded_size
      more = found.pop("loss") - before.pop("loss")
      np.testing.assert_allclose(more, 3 * 2 * pairs)
    assert found == before
  with pytest.raises(ValueError, match="pass autoencoder=CONFIG"):
    flops.training_flops_per_token(model)
  assert decoder == costs.generation_flops_per_token(
    plain, autoencoder, 8, num_samples
  )
  assert configs.news(model) == {}


def test_closed_chunks_are_what_it_compares_with():
  config = _experiment()
  config.data = dataclasses.replace(config.data, close_chunks=True)
  batch = tiny.batch(config)
  batch.token_mask[:] = False
  batch.token_mask[2, 3] = True  # the one chunk that counts
  end_id = tiny.VOCABULARY.end_id
  objective = jax.jit(family_of(config.model).objective(config))
  scores = []
  for chunk in ((end_id, 5), (end_id, end_id), (5, end_id)):
    batch.tokens[2, 3] = chunk
    _, means = objective(tiny.params(config.model), _frozen(), batch, _KEY)
    scores.append(compute(jax.device_get(means))["soft_brier_2"])
  assert scores[0] == scores[1] != scores[2]


def test_a_head_that_draws_nothing_in_training_is_refused():
  model = tiny.experiment("next_vector").model
  with pytest.raises(ValueError, match=r"diffusion head draws .* take energy"):
    dataclasses.replace(
      model, head=configs.DiffusionHeadConfig(), brier_weight=1.0
    )
  with pytest.raises(ValueError, match="brier_weight is -1"):
    dataclasses.replace(model, brier_weight=-1.0)
