"""Tests calm_jax/runs/placement.py, and the mesh that binaries take by it."""

import dataclasses

import jax
import pytest
from absl import flags

from calm_jax.checkpoint import run_directory
from calm_jax.config import MeshConfig
from calm_jax.runs.placement import loading_bytes, mesh_for
from calm_jax.training import memory as memory_lib
from launch import mesh
from tests.sampling.tiny_runs import calm_run, token_run


def _size(params):
  return sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.parametrize("run_fn", [calm_run, token_run])
def test_what_a_device_holds_while_it_loads(run_fn):
  run = run_fn()
  trained, frozen = _size(run.params), _size(run.autoencoder)
  assert loading_bytes(run.config) == 4 * (trained + frozen)
  short = dataclasses.replace(run.config.model, dtype="bfloat16")
  short = dataclasses.replace(run.config, model=short)
  assert loading_bytes(short, 2) == 6 * (-(-trained // 2) + frozen)


def test_parameters_are_split_no_more_than_they_need():
  config = calm_run().config
  for fsdp in (1, 2, 4, 8):
    memory = int(loading_bytes(config, fsdp) / 0.8) + 1
    assert mesh_for([config], 8, memory) == MeshConfig(fsdp=fsdp)
    assert mesh_for([config] * 2, 8, 2 * memory) == MeshConfig(fsdp=fsdp)
  assert mesh_for([config], 8, 0) == MeshConfig(fsdp=8)
  memory = int(loading_bytes(config, 3) / 0.8) + 1
  assert mesh_for([config], 6, memory) == MeshConfig(fsdp=3)
  assert mesh_for([config], 8, None) == MeshConfig()
  assert mesh_for([], 8, 0) == MeshConfig(fsdp=1)


def test_given_sizes_stay():
  config = calm_run().config
  memory = int(loading_bytes(config, 4) / 0.8) + 1
  given = MeshConfig(tensor=2)
  found = mesh_for([config], 8, memory, given)
  assert found == MeshConfig(fsdp=2, tensor=2)
  for given in (MeshConfig(fsdp=2), MeshConfig(data=4)):
    assert mesh_for([config], 8, 0, given) == given


def test_binaries_split_a_model_that_is_too_large(monkeypatch, capsys):
  runs = {"small": token_run().config, "large": calm_run().config}
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["test"])

  class Directory:
    def __init__(self, name):
      self.exists = lambda: name in runs
      self.read_config = lambda: runs[name]

  monkeypatch.setattr(run_directory, "RunDirectory", Directory)
  assert mesh.chosen("small", "large").shape["data"] == 8
  assert not capsys.readouterr().err
  assert mesh.chosen("not there yet").shape["data"] == 8
  memory = sum(loading_bytes(run, 4) for run in runs.values())
  memory = int(memory / 0.8) + 1
  monkeypatch.setattr(memory_lib, "device_bytes", lambda: memory)
  assert mesh.chosen("small", "large").shape["fsdp"] == 4
  assert "split over 4 devices" in capsys.readouterr().err
