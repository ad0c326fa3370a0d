"""Tests evaluation/follow.py: every step of a run is scored once."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from calm_jax import config_file
from calm_jax.checkpoint.checkpointer import Checkpointer
from calm_jax.checkpoint.run_directory import RunDirectory
from calm_jax.config import MeshConfig
from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.evaluation.result_rows import ResultRows
from calm_jax.runs import follow
from calm_jax.training import sharding
from calm_jax.training.step import Program
from tests.training import tiny

_SETTINGS = {"num_rows": 2}


@pytest.fixture(scope="module")
def program():
  experiment = tiny.experiment("token", num_steps=4)
  mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices()[:1])
  return Program(experiment, mesh)


@pytest.fixture
def run(tmp_path):
  return RunDirectory(tmp_path / "run")


@pytest.fixture
def rows(tmp_path):
  return ResultRows(tmp_path / "rows.jsonl")


def _create(run, seed=0):
  config = dataclasses.replace(tiny.experiment("token", num_steps=4), seed=seed)
  run.create(config, ByteTokenizer(), None)


def _save(run, program, *steps):
  checkpointer = Checkpointer(
    run,
    hashes={"tokenizer": ByteTokenizer().content_hash, "data": "d"},
    max_checkpoints=9,
    keep_interval=0,
  )
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.shapes)
  for step in steps:
    checkpointer.save(step, state._replace(step=np.int32(step)), {})
  checkpointer.close()


def _evaluate(loaded):
  return {"step": loaded.step, "settings": _SETTINGS, "score": 0.5}


def _follow(run, rows, on_poll=(), evaluate_fn=_evaluate, **settings):
  """Follows a run; what happens between two looks is a list of functions."""
  events, warnings = list(on_poll), []

  def sleep(seconds):
    del seconds
    assert events, "it waits for what does not come"
    events.pop(0)()

  follow.follow_run(
    run, evaluate_fn, rows, sleep_fn=sleep, warn_fn=warnings.append, **settings
  )
  assert not events
  return warnings


def _steps(tmp_path):
  lines = (tmp_path / "rows.jsonl").read_text().splitlines()
  return [json.loads(line)["step"] for line in lines]


def test_a_run_is_scored_from_before_its_start_to_its_end(
  run, rows, program, tmp_path
):
  events = [
    lambda: _create(run),
    lambda: _save(run, program, 1, 2),
    lambda: None,  # the trainer is dead for a while
    lambda: _save(run, program, 3),
    lambda: _save(run, program, 4),
  ]
  assert _follow(run, rows, events) == []
  assert _steps(tmp_path) == [1, 2, 3, 4]


def test_a_run_whose_data_ended_is_done(run, rows, program, tmp_path):
  _create(run)
  _save(run, program, 3)
  run.note_end(tiny.experiment("token", num_steps=4), 3)
  assert _follow(run, rows) == []
  assert _steps(tmp_path) == [3]
  assert run.last_step() == 3
  run.update(tiny.experiment("token", num_steps=5), step=3, changes={})
  assert run.last_step() == 5  # it goes on with more data


def test_what_is_missing_beside_the_steps_is_named(
  run, rows, program, tmp_path
):
  _create(run)
  _save(run, program, 4)
  run.tokenizer.rename(tmp_path / "aside")
  events = [
    lambda: None,
    lambda: None,
    lambda: (tmp_path / "aside").rename(run.tokenizer),
  ]
  (warning,) = _follow(run, rows, events)
  assert "there is no tokenizer at" in warning
  assert _steps(tmp_path) == [4]


def test_rows_that_are_there_are_not_made_again(run, program, tmp_path):
  _create(run)
  _save(run, program, 1, 2, 4)
  path = tmp_path / "rows.jsonl"
  done = json.dumps(_evaluate(follow.load_run(run.path, 1)))
  path.write_text(f'{done}\n{{"step": 2, "sco')  # killed while it wrote
  _follow(run, ResultRows(path))
  assert _steps(tmp_path) == [1, 2, 4]


def test_a_damaged_step_is_named_once_and_scored_when_it_is_whole(
  run, rows, program, tmp_path
):
  _create(run)
  _save(run, program, 2)
  params = run.steps / "2" / "params"
  params.rename(tmp_path / "aside")
  unfinished = run.steps / "3.orbax-checkpoint-tmp"
  shutil.copytree(run.steps / "2", unfinished)
  events = [
    lambda: None,
    lambda: None,
    lambda: None,
    lambda: (tmp_path / "aside").rename(params),
    lambda: _save(run, program, 4),
  ]
  (warning,) = _follow(run, rows, events)
  assert "step 2 in" in warning and "damaged" in warning
  assert _steps(tmp_path) == [2, 4]


def test_a_step_that_is_removed_meanwhile_is_left_out(
  run, rows, program, tmp_path
):
  _create(run)
  _save(run, program, 1, 2, 4)

  def evaluate(loaded):
    shutil.rmtree(run.steps / "2", ignore_errors=True)
    return _evaluate(loaded)

  assert _follow(run, rows, evaluate_fn=evaluate) == []
  assert _steps(tmp_path) == [1, 4]


def test_a_list_of_steps_ends_with_them(run, rows, program, tmp_path):
  _create(run)
  _save(run, program, 1, 2, 3)
  _follow(run, rows, steps=[3, 1])
  assert _steps(tmp_path) == [1, 3]
  follow.evaluate_steps(run, [1, 2], _evaluate, rows)
  assert _steps(tmp_path) == [1, 3, 2]
  with pytest.raises(FileNotFoundError, match="step 9 is not in"):
    follow.evaluate_steps(run, [9], _evaluate, rows)


def test_waiting_has_a_limit(run, rows, program):
  _create(run)
  _save(run, program, 2)
  with pytest.raises(ValueError, match=r"no new step for 0 s; .* far: 2\."):
    _follow(run, rows, wait_seconds=0)


def test_rows_of_other_settings_or_other_files_are_refused(tmp_path):
  path = tmp_path / "rows.jsonl"
  ResultRows(path).append({"step": 1, "settings": {"num_rows": 2}})
  with pytest.raises(ValueError, match="num_rows 2, and now it is 4"):
    ResultRows(path).append({"step": 2, "settings": {"num_rows": 4}})
  path.write_text('{"loss": 1}\n')
  with pytest.raises(ValueError, match="does not hold results by step"):
    ResultRows(path)


def _identified(run):
  """Rows that say which run they are of, as those of `evaluate_run` do."""
  return lambda loaded: {
    **_evaluate(loaded),
    "checkpoint": str(run.path),
    "config": config_file.to_dict(run.read_config()),
  }


def _never(loaded):
  raise AssertionError(f"step {loaded.step} is scored")


def test_rows_of_another_run_are_refused(run, rows, program, tmp_path):
  _create(run)
  _save(run, program, 1, 4)
  follow.evaluate_steps(run, [1, 4], _identified(run), rows)
  other = RunDirectory(tmp_path / "other")
  _create(other, seed=1)
  _save(other, program, 1, 2)
  for steps in ([1], [1, 2]):
    with pytest.raises(
      ValueError, match=r"rows\.jsonl holds rows with a run of another"
    ):
      follow.evaluate_steps(other, steps, _never, rows)
  with pytest.raises(ValueError, match="a run of another config"):
    _follow(other, rows, evaluate_fn=_never)
  shutil.rmtree(other.path)
  run.path.rename(other.path)  # the same run, elsewhere
  follow.evaluate_steps(other, [1, 4], _never, rows)


def test_rows_of_a_run_that_was_begun_anew_are_refused(run, rows, program):
  _create(run)
  _save(run, program, 1, 4)
  follow.evaluate_steps(run, [1, 4], _identified(run), rows)
  shutil.rmtree(run.path)
  with pytest.raises(ValueError, match="a run of another config"):
    _follow(run, rows, [lambda: _create(run, seed=3)], evaluate_fn=_never)


def test_a_run_that_is_begun_anew_while_it_is_followed_is_refused(
  run, rows, program
):
  def begin_anew():
    shutil.rmtree(run.path)
    _create(run, seed=3)
    _save(run, program, 2)

  _create(run)
  _save(run, program, 1)
  with pytest.raises(ValueError, match="a run of another config"):
    _follow(run, rows, [begin_anew], evaluate_fn=_identified(run))
  assert rows.steps == {1}


def test_rows_measured_otherwise_are_refused_before_any_work(
  run, rows, program
):
  _create(run)
  _save(run, program, 1, 4)
  facts = {
    "kind": "token",
    "settings": {"num_rows": 2, "data": "here"},
    "seed": 0,
    "hashes": {"data": "d" * 64},
  }
  follow.evaluate_steps(
    run, [1, 4], lambda loaded: {"step": loaded.step, **facts}, rows
  )
  changes = [
    ({"seed": 3}, "seed 0, and now it is 3"),
    ({"settings": {"num_rows": 4}}, "num_rows 2, and now it is 4"),
    ({"hashes": {"data": "e" * 64}}, "hashes.data 'dddddddddddd', and now"),
  ]
  for change, message in changes:
    expected_fn = lambda run, change=change: facts | change
    for call in (
      lambda fn: follow.evaluate_steps(run, [1], _never, rows, expected_fn=fn),
      lambda fn: _follow(run, rows, evaluate_fn=_never, expected_fn=fn),
    ):
      with pytest.raises(ValueError, match=message):
        call(expected_fn)
  moved = facts | {"settings": {"num_rows": 2, "data": "there"}}
  follow.evaluate_steps(run, [1], _never, rows, expected_fn=lambda run: moved)
