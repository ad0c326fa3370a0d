"""Tests calm_jax/training/layout.py."""

import dataclasses
import json
import math
import pathlib

import jax
import pytest

from calm_jax.config import MeshConfig
from calm_jax.planning.assumptions import complete
from calm_jax.training import layout, sharding
from calm_jax.training.layout import choose_layout
from calm_jax.training.memory import StepMemory
from calm_jax.training.step import Program
from experiments import calm
from tests.training import tiny

_PLANS = pathlib.Path(__file__).parents[2] / "benchmarks" / "plans"
_ROWS = 64
_MEMORIES = {}


class _Memory:
  """Traces a model once for all tests."""

  def expected(self, config):
    key = config.model, config.num_chunks
    return _MEMORIES.setdefault(key, StepMemory()).expected(config)


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch):
  monkeypatch.setattr(layout, "StepMemory", _Memory)


def _experiment(stage="next_vector", **changes):
  changes = {"mesh": MeshConfig(), "batch_size": _ROWS} | changes
  return tiny.experiment(stage, **changes)


def _sizes(chosen):
  return tuple(vars(chosen.config.mesh).values())


def _needed(config, **sizes):
  """What the memory has to be for a mesh to fit."""
  num_microbatches = sizes.pop("num_microbatches", 1)
  mesh = MeshConfig(**{"tensor": 1, "sequence": 1, **sizes})
  config = dataclasses.replace(
    config, mesh=mesh, num_microbatches=num_microbatches
  )
  return int(_Memory().expected(config) / 0.9) + 1


@pytest.mark.parametrize("stage", tiny.STAGES)
@pytest.mark.parametrize("num_devices", [1, 8, 64, 256])
@pytest.mark.parametrize("memory", [None, 0, 1e5, 1e9])
def test_every_choice_can_run(stage, num_devices, memory):
  config = _experiment(stage)
  chosen = choose_layout(config, num_devices, memory)
  found, sizes = chosen.config, _sizes(chosen)
  assert math.prod(sizes) == num_devices and min(sizes) > 0
  unit = found.mesh.data * found.mesh.fsdp * found.num_microbatches
  assert found.num_microbatches > 0 and _ROWS % unit == 0
  assert getattr(config.model, "num_heads", 1) % found.mesh.tensor == 0
  assert config.num_chunks % found.mesh.sequence == 0
  restored = dataclasses.replace(
    found, mesh=config.mesh, num_microbatches=config.num_microbatches
  )
  assert restored == config


def test_without_a_known_memory_nothing_is_split_for_it():
  found = choose_layout(_experiment(), 8, None)
  assert _sizes(found) == (8, 1, 1, 1)
  assert found.config.num_microbatches == 1 and found.fits
  assert "GiB" not in str(found)


@pytest.mark.parametrize(
  ("rows", "num_devices", "sizes"),
  [
    (8, 8, (8, 1, 1, 1)),
    (8, 16, (8, 1, 2, 1)),  # tensor takes what rows leave, up to the heads
    (8, 128, (8, 1, 4, 4)),
    (2, 8, (2, 1, 4, 1)),
    (6, 4, (2, 1, 2, 1)),
  ],
)
def test_rows_lie_side_by_side(rows, num_devices, sizes):
  config = _experiment(batch_size=rows)
  assert _sizes(choose_layout(config, num_devices, None)) == sizes


def test_parameters_are_split_before_the_batch_is_and_no_more_than_needed():
  config = _experiment()
  for sizes in (
    {"data": 32, "fsdp": 1},
    {"data": 16, "fsdp": 2},
    {"data": 2, "fsdp": 16},
    {"data": 2, "fsdp": 16, "num_microbatches": 2},
  ):
    found = choose_layout(config, 32, _needed(config, **sizes))
    assert found.fits
    assert (found.config.mesh.data, found.config.mesh.fsdp) == (
      sizes["data"],
      sizes["fsdp"],
    )
    expected = sizes.get("num_microbatches", 1)
    assert found.config.num_microbatches == expected


def test_less_memory_never_means_fewer_parts():
  config = _experiment("token")
  last = (0, 0)
  seen = set()
  for i in range(200):
    found = choose_layout(config, 32, int(4e6 * 0.97**i))
    parts = found.config.mesh.fsdp, found.config.num_microbatches
    assert parts[0] >= last[0]
    assert parts[1] >= last[1] or parts[0] > last[0]
    last = parts
    seen.add(parts)
    if not found.fits:
      assert "may be too much" in str(found)
  assert (1, 1) in seen and len(seen) > 3 and last == (32, 2)


@pytest.mark.parametrize("memory", [None, 0, 1e9])
def test_given_sizes_are_honoured(memory):
  given = MeshConfig(fsdp=2)
  found = choose_layout(_experiment(mesh=given), 8, memory)
  assert _sizes(found) == (4, 2, 1, 1)
  given = MeshConfig(data=2, tensor=2, sequence=2)
  found = choose_layout(_experiment(mesh=given), 32, memory)
  assert _sizes(found) == (2, 4, 2, 2)
  config = _experiment(num_microbatches=4)
  found = choose_layout(config, 8, memory)
  assert found.config.num_microbatches == 4
  # Sixteen rows at once for 32 devices.
  assert math.prod(_sizes(choose_layout(config, 32, memory))[:2]) == 16
  whole = {"data": 1, "fsdp": 8, "tensor": 1, "sequence": 1}
  config = _experiment(mesh=MeshConfig(**whole), num_microbatches=8)
  assert choose_layout(config, 8, memory).config == config


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"mesh": MeshConfig(fsdp=3)}, "mesh fsdp 3 does not multiply to the 8"),
    ({"batch_size": 6, "num_chunks": 7, "stage": "autoencoder"}, "not a mult"),
    ({"mesh": MeshConfig(tensor=8)}, "num_heads 4 is not a multiple"),
    ({"mesh": MeshConfig(data=8), "num_microbatches": 16}, "multiple of 128"),
  ],
)
def test_what_goes_with_no_mesh_is_said_by_the_checks(changes, message):
  config = _experiment(**changes)
  chosen = choose_layout(config, 8, 10**9)
  with pytest.raises(ValueError, match=message) as error:
    Program(chosen.config, sharding.make_mesh(chosen.config.mesh))
  assert "\n" not in str(error.value)


def test_data_alone_spans_slices():
  config = _experiment(batch_size=32)
  found = choose_layout(config, 32, 0, num_slices=4)
  assert found.config.mesh.data == 4 and found.config.mesh.fsdp == 8


def test_the_step_is_the_one_that_was_chosen():
  config = _experiment("token", batch_size=16)
  memory = _needed(config, data=1, fsdp=8, num_microbatches=2)
  chosen = choose_layout(config, 8, memory)
  program = Program(chosen.config, sharding.make_mesh(chosen.config.mesh))
  assert program.mesh.shape["fsdp"] == 8
  kept = StepMemory().least(chosen.config)
  state = sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(program.shapes)
  )
  assert 0.5 * state < kept


@pytest.mark.slow
@pytest.mark.parametrize("size", ["m", "l", "xl"])
def test_what_is_allowed_is_what_the_compiler_took(size):
  config, memory = complete(calm.get_config(size), 128256), StepMemory()
  paths = list(_PLANS.glob(f"{size}-v*.json"))
  assert len(paths) == 3
  for path in paths:
    plan = json.loads(path.read_text())
    planned = dataclasses.replace(
      config,
      mesh=MeshConfig(**plan["mesh"]),
      num_microbatches=plan["num_microbatches"],
    )
    share = plan["bytes_per_chip"] / memory.expected(planned)
    assert 0.55 < share < 0.95, path.name
