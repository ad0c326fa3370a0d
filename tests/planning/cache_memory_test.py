"""Reads from the compiler what a step of generation needs beside its cache."""

import dataclasses

import jax
import pytest

from calm_jax import config as config_lib
from calm_jax.planning import assumptions, programs
from calm_jax.planning.topology import CHIPS, Topology, find_topology


def _config():
  """A model whose cache is far larger than all else."""
  vocabulary = config_lib.VocabularyConfig(size=64, begin_id=62, end_id=63)
  common = {"vocabulary": vocabulary, "chunk_size": 2, "latent_size": 16}
  return assumptions.complete(
    config_lib.ExperimentConfig(
      model=config_lib.NextVectorConfig(
        **common,
        hidden_size=256,
        ffn_size=256,
        num_layers=48,
        num_heads=2,
        dtype="bfloat16",
        head=config_lib.EnergyHeadConfig(num_mlp_layers=1),
      ),
      autoencoder=config_lib.AutoencoderConfig(
        **common, hidden_size=32, ffn_size=32
      ),
      data=config_lib.DataConfig(row_length=4096, batch_size=1),
    ),
    64,
  )


def _share(config, topology):
  """Temporaries over the cache and the little else that a row has."""
  plan = programs.plan_program("generate", config, topology, 8)
  assert plan.compiled
  return plan.bytes_by_kind["temporaries"] / plan.bytes_by_kind["rows"]


def test_nothing_of_the_cache_is_copied(monkeypatch):
  monkeypatch.setattr(programs, "available_bytes", lambda _: 0)
  topology = Topology("cpu", CHIPS["v5e"], jax.devices()[:1])
  # XLA's products on CPUs read copies of a layer, in float32.
  model = dataclasses.replace(_config().model, dtype="float32")
  config = dataclasses.replace(_config(), model=model)
  assert _share(config, topology) < 0.05


@pytest.mark.aot
def test_nothing_of_the_cache_is_copied_on_a_tpu():
  pytest.importorskip("libtpu", reason="the extra [aot] brings libtpu")
  assert _share(_config(), find_topology("v5e:1x1")) < 0.05
