"""Tests calm_jax/planning/assumptions.py."""

import jax
import pytest

from calm_jax.families import build_model, param_shapes
from calm_jax.planning.assumptions import complete, parse_mesh
from calm_jax.scaling.flops import training_flops
from experiments import autoencoder, calm, token


def test_a_config_needs_no_data_and_no_autoencoder():
  config = complete(calm.get_config("xl"), 128256)
  leaves = jax.tree.leaves(param_shapes(build_model(config.model)))
  assert sum(leaf.size for leaf in leaves) == pytest.approx(1.83e9, rel=2e-3)
  assert config.autoencoder.latent_size == config.model.latent_size == 128
  # The paper's 500 billion tokens, and its FLOPs.
  tokens = config.num_steps * config.data.batch_size * config.data.row_length
  assert tokens == pytest.approx(500e9, rel=0.05)
  flops = training_flops(config) * 500e9 / tokens
  assert flops == pytest.approx(19.5e20, rel=0.07)


def test_other_models_get_a_vocabulary():
  for experiment in (autoencoder.get_config("k1"), token.get_config("tiny")):
    config = complete(experiment, 1000)
    assert config.model.vocabulary.size == 1000
    assert config.autoencoder is None
  with pytest.raises(ValueError, match="give 3 or more"):
    complete(token.get_config("tiny"), 2)


def test_a_mesh_is_read_or_refused():
  assert parse_mesh("data=4,fsdp=16") == {"data": 4, "fsdp": 16}
  for text in ("rows=4", "fsdp", "fsdp=x", ""):
    with pytest.raises(ValueError, match="data, fsdp, tensor, sequence"):
      parse_mesh(text)
