"""Tests calm_jax/checkpoint: what is saved, read again, damaged or moved."""

import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from calm_jax import config_file
from calm_jax.checkpoint import checkpointer as checkpointer_lib
from calm_jax.checkpoint import steps as steps_lib
from calm_jax.checkpoint.checkpointer import Checkpointer
from calm_jax.checkpoint.run_directory import (
  RunDirectory,
  content_hash,
  load_run,
)
from calm_jax.config import MeshConfig
from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.training import sharding
from calm_jax.training.state import TrainState
from calm_jax.training.step import Program
from tests.cached import cached
from tests.training import tiny

_HASHES = {"data": "d" * 64, "tokenizer": ByteTokenizer().content_hash}


@cached
def _shapes(stage="next_vector", **mesh):
  config = MeshConfig(**{"data": 1, "fsdp": 1, "tensor": 1, **mesh})
  num_devices = config.data * config.fsdp * config.tensor
  experiment = tiny.experiment(stage, mesh=config)
  devices = jax.devices()[:num_devices]
  return Program(experiment, sharding.make_mesh(config, devices)).shapes


def _state(shapes, step):
  """A state of random numbers, a function of its step."""
  rng = np.random.default_rng(step)
  state = jax.tree.map(
    lambda x: jax.device_put(
      (9 * rng.normal(size=x.shape)).astype(x.dtype), x.sharding
    ),
    shapes,
  )
  return state._replace(
    step=jax.device_put(np.int32(step), shapes.step.sharding)
  )


def _checkpointer(path, hashes=None, **changes):
  settings = {"max_checkpoints": 3, "keep_interval": 0} | changes
  return Checkpointer(RunDirectory(path), hashes=hashes or _HASHES, **settings)


def _save(path, steps, hashes=None, shapes=None, **changes):
  checkpointer = _checkpointer(path, hashes, **changes)
  for step in steps:
    position = {"last_evaluation": 0, "window": {"loss": [0.1 * step, 3.0]}}
    checkpointer.save(step, _state(shapes or _shapes(), step), position)
  checkpointer.close()


def _restore(path, shapes=None, hashes=None):
  checkpointer = _checkpointer(path, hashes)
  try:
    return checkpointer.restore(shapes or _shapes())
  finally:
    checkpointer.close()


def _assert_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def _largest_file(path):
  files = pathlib.Path(path).iterdir()
  return max(files, key=lambda file: file.stat().st_size)


def _damage(path, how):
  """Damages a saved step."""
  arrays = _largest_file(path / "params" / "d")
  if how == "truncated":
    arrays.write_bytes(arrays.read_bytes()[:-100])
  elif how == "flipped":
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 4
    arrays.write_bytes(content)
  elif how == "no optimizer":
    shutil.rmtree(path / "optimizer")
  elif how == "no params":
    shutil.rmtree(path / "params")
  elif how == "metadata":
    (path / "optimizer" / "_METADATA").write_text("{")
  elif how == "position":
    file = path / "position" / "metadata"
    file.write_text(file.read_text().replace("0.6", "0.7"))
  elif how == "empty":
    shutil.rmtree(path)
    path.mkdir()


_DAMAGES = (
  "truncated",
  "flipped",
  "no optimizer",
  "no params",
  "metadata",
  "position",
  "empty",
)


def test_a_state_comes_back_to_the_bit_with_its_position(tmp_path):
  _save(tmp_path, [3, 6])
  state, position = _restore(tmp_path)
  _assert_equal(state, _state(_shapes(), 6))
  assert position.pop("sums").keys() == {"params", "optimizer"}
  assert position == {
    "step": 6,
    "last_evaluation": 0,
    "window": {"loss": [0.1 * 6, 3.0]},
    "hashes": _HASHES,
  }


@pytest.mark.parametrize("mesh", [{"fsdp": 4, "tensor": 2}, {"data": 2}])
def test_a_state_comes_back_on_another_mesh(mesh, tmp_path):
  _save(tmp_path, [5], shapes=_shapes(fsdp=8))
  shapes = _shapes(**mesh)
  state, _ = _restore(tmp_path, shapes)
  _assert_equal(state, _state(_shapes(), 5))
  places = jax.tree.map(lambda x: x.sharding, shapes)
  assert jax.tree.map(lambda x: x.sharding, state) == places


def test_nothing_saved_is_a_new_run(tmp_path):
  assert _restore(tmp_path) is None


def test_the_newest_and_every_nth_stay(tmp_path):
  _save(tmp_path, range(1, 10), max_checkpoints=2, keep_interval=4)
  assert steps_lib.list_steps(tmp_path / "steps") == [4, 8, 9]


_NO_STEPS = ("old_900", "best_6", "0900", "_7", "+8", "8.0", "-9", "9 ", "9\n")


@pytest.mark.parametrize("name", [*_NO_STEPS, "1\u0660", "\u00b2", "a file"])
def test_what_has_no_plain_number_as_its_name_is_no_step(name, tmp_path, capfd):
  """Neither where steps are listed nor where one is read, saved or removed."""
  _save(tmp_path, [3, 5])
  steps = tmp_path / "steps"
  if name == "a file":
    other = steps / "900"
    other.write_text("mine")
  else:
    other = steps / name
    shutil.copytree(steps / "5", other)
  run = RunDirectory(tmp_path)
  assert steps_lib.list_steps(steps) == [3, 5]
  assert run.find_step(None) == 5
  with pytest.raises(FileNotFoundError, match="saved are 3, 5"):
    run.find_step(900)
  assert _restore(tmp_path)[1]["step"] == 5
  _save(tmp_path, [6, 7], max_checkpoints=2)
  assert steps_lib.list_steps(steps) == [6, 7]
  assert other.exists()
  assert "warning" not in capfd.readouterr().err.lower()


def test_a_step_under_another_name_is_not_gone_on_from(tmp_path):
  _save(tmp_path, [3, 6])
  (tmp_path / "steps" / "6").rename(tmp_path / "steps" / "best_6")
  state, position = _restore(tmp_path)
  _assert_equal(state, _state(_shapes(), 3))
  assert position["step"] == 3
  (tmp_path / "steps" / "3").rename(tmp_path / "steps" / "best_3")
  assert _restore(tmp_path) is None


# Orbax leaves the reads behind the one that failed unawaited.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", _DAMAGES)
def test_a_damaged_newest_step_falls_back_loudly(how, tmp_path, capfd):
  _save(tmp_path, [3, 6])
  _damage(tmp_path / "steps" / "6", how)
  state, position = _restore(tmp_path)
  _assert_equal(state, _state(_shapes(), 3))
  assert position["step"] == 3
  said = capfd.readouterr().err
  assert "Traceback" not in said and "ERROR" not in said
  assert "warning: step 6 in" in said and "is damaged" in said
  assert "warning: going on from step 3 instead of 6" in said
  # The number is free again, and what was damaged is still there to look at.
  assert (tmp_path / "damaged" / "6").exists()
  _save(tmp_path, [6])
  assert _restore(tmp_path)[1]["step"] == 6


def test_a_turned_bit_is_seen_wherever_it_is(tmp_path, capfd):
  """Also where the file holds numbers that did not compress."""
  numbers = np.random.default_rng(0).normal(size=(96, 64)).astype(np.float32)
  numbers = jnp.asarray(numbers)
  state = TrainState(jnp.int32(6), {"w": numbers}, {"mu": numbers})
  place_of = lambda x: jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=SingleDeviceSharding(jax.devices()[0])
  )
  shapes = jax.tree.map(place_of, state)
  checkpointer = _checkpointer(tmp_path)
  checkpointer.save(6, state, {})
  checkpointer.close()
  files = (tmp_path / "steps" / "6" / "params").rglob("d/*")
  arrays = max(files, key=lambda file: file.stat().st_size)
  whole, said = arrays.read_bytes(), []
  for place in range(0, len(whole), len(whole) // 20):
    content = bytearray(whole)
    content[place] ^= 1 << place % 8
    arrays.write_bytes(content)
    try:
      found, _ = _restore(tmp_path, shapes)
      _assert_equal(found, state)  # a byte that nobody reads
    except ValueError:
      said.append(capfd.readouterr().err)
  assert sum("params w do not have the checksum" in it for it in said) >= 5


def test_a_step_without_checksums_is_read(tmp_path):
  _save(tmp_path, [3])
  file = tmp_path / "steps" / "3" / "position" / "metadata"
  content = json.loads(file.read_text())["content"]
  del content["sums"]
  file.write_text(json.dumps(steps_lib.sealed(content)))
  state, _ = _restore(tmp_path)
  _assert_equal(state, _state(_shapes(), 3))


def test_reading_waits_for_no_other_process(tmp_path, monkeypatch):
  """`device_put` onto several processes compares the value among all."""
  _save(tmp_path, [3])

  class Silent:
    def __getattr__(self, name):
      assert name != "device_put"
      return getattr(jax, name)

  monkeypatch.setattr(checkpointer_lib, "jax", Silent())
  state, _ = _restore(tmp_path)
  assert state.step == 3


def test_damage_everywhere_is_an_error_and_moves_nothing(tmp_path):
  _save(tmp_path, [3, 6])
  for step in (3, 6):
    _damage(tmp_path / "steps" / str(step), "truncated")
  with pytest.raises(ValueError, match="none of the 2 steps in"):
    _restore(tmp_path)
  assert steps_lib.list_steps(tmp_path / "steps") == [3, 6]


def test_a_lack_of_memory_is_no_damage(tmp_path, monkeypatch):
  _save(tmp_path, [3, 6])

  def fail(*unused):
    raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

  monkeypatch.setattr(steps_lib, "read_tree", fail)
  with pytest.raises(RuntimeError, match="RESOURCE_EXHAUSTED"):
    _restore(tmp_path)
  assert steps_lib.list_steps(tmp_path / "steps") == [3, 6]


def test_a_save_that_was_killed_is_skipped_and_cleaned_up(tmp_path):
  _save(tmp_path, [3])
  leftover = tmp_path / "steps" / "6.orbax-checkpoint-tmp"
  shutil.copytree(tmp_path / "steps" / "3", leftover)
  assert _restore(tmp_path)[1]["step"] == 3
  assert not leftover.exists()


def test_other_data_than_the_run_was_trained_on_is_refused(tmp_path):
  _save(tmp_path, [3])
  with pytest.raises(ValueError, match="the data is not the one that step 3"):
    _restore(tmp_path, hashes={**_HASHES, "data": "e" * 64})


def test_a_step_that_cannot_be_written_is_one_line(tmp_path):
  checkpointer = _checkpointer(tmp_path)
  shutil.rmtree(tmp_path / "steps")
  (tmp_path / "steps").write_text("in the way")
  with pytest.raises(OSError, match=r"cannot save a checkpoint to .*steps"):
    checkpointer.save(1, _state(_shapes(), 1), {})
    checkpointer.wait()


def _make_run(path, stage="next_vector", steps=(3, 6)):
  experiment = tiny.experiment(stage)
  run = RunDirectory(path)
  frozen, hashes = None, _HASHES
  if stage == "next_vector":
    frozen = tiny.params(experiment.autoencoder)
    hashes = {**hashes, "autoencoder": content_hash(frozen)}
    frozen = jax.device_put(frozen, jax.devices()[0])
  run.create(experiment, ByteTokenizer(), frozen)
  _save(path, steps, hashes=hashes, shapes=_shapes(stage))
  return run


@pytest.mark.parametrize("stage", tiny.STAGES)
def test_a_moved_run_loads_without_its_optimizer(stage, tmp_path):
  _make_run(tmp_path / "there", stage)
  path = (tmp_path / "there").rename(tmp_path / "here")
  for step in (3, 6):
    shutil.rmtree(path / "steps" / str(step) / "optimizer")
  found = load_run(path)
  assert (found.step, found.config) == (6, tiny.experiment(stage))
  assert found.tokenizer.content_hash == _HASHES["tokenizer"]
  _assert_equal(found.params, _state(_shapes(stage), 6).params)
  _assert_equal(load_run(path, step=3).params, _state(_shapes(stage), 3).params)
  if stage == "next_vector":
    _assert_equal(
      found.autoencoder, tiny.params(tiny.experiment(stage).autoencoder)
    )
  else:
    assert found.autoencoder is None


def test_a_run_loads_onto_a_mesh(tmp_path):
  _make_run(tmp_path)
  mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
  found = load_run(tmp_path, mesh=mesh)
  _assert_equal(found.params, _state(_shapes(), 6).params)
  kernel = found.params["backbone"]["layers"]["mlp"]["gate"]["kernel"]
  assert tuple(kernel.sharding.spec) == (None, "fsdp", "tensor")


def test_what_is_no_run_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="there is no directory"):
    load_run(tmp_path / "nothing")
  with pytest.raises(ValueError, match="is not a run directory"):
    load_run(tmp_path)
  _make_run(tmp_path, "token", steps=())
  with pytest.raises(ValueError, match="has no checkpoint"):
    load_run(tmp_path)


def test_what_is_missing_or_damaged_in_a_run_is_named(tmp_path):
  run = _make_run(tmp_path)
  with pytest.raises(FileNotFoundError, match=r"step 5 .* saved are 3, 6\."):
    load_run(tmp_path, step=5)
  _damage(run.steps / "6", "truncated")
  with pytest.raises(ValueError, match=r"step 6 .* damaged.* --step=3 instead"):
    load_run(tmp_path)
  shutil.rmtree(run.autoencoder)
  with pytest.raises(ValueError, match=r"frozen autoencoder in .* cannot be"):
    load_run(tmp_path, step=3)


def test_a_swapped_autoencoder_is_noticed(tmp_path):
  run = _make_run(tmp_path)
  other = tiny.params(run.read_config().autoencoder, seed=9)
  run.create(
    run.read_config(),
    ByteTokenizer(),
    jax.device_put(other, jax.devices()[0]),
  )
  with pytest.raises(ValueError, match="autoencoder is not what the run was"):
    load_run(tmp_path)


def test_another_format_version_is_refused(tmp_path):
  run = _make_run(tmp_path, "token")
  content = json.loads(run.config_file.read_text())
  run.config_file.write_text(json.dumps({**content, "format_version": 99}))
  with pytest.raises(ValueError, match="format_version 99"):
    load_run(tmp_path)


def test_the_same_config_goes_on_and_another_is_refused(tmp_path):
  run = _make_run(tmp_path, "token", steps=())
  config = tiny.experiment("token")
  run.check_same(config)
  run.check_same(
    dataclasses.replace(
      config,
      num_steps=5000,
      log_interval=7,
      save_interval=9,
      eval_interval=11,
      max_checkpoints=1,
      mesh=MeshConfig(fsdp=8),
      data=dataclasses.replace(config.data, path="moved"),
    )
  )
  other = config_file.check_types(config)
  other.model.num_layers = 3
  other.optimizer.learning_rate = 0.5
  with pytest.raises(
    ValueError,
    match=r"another config; .* model\.num_layers \(there 2, now 3\),"
    r" optimizer\.learning_rate \(there 0\.0003, now 0\.5\)",
  ):
    run.check_same(other)
