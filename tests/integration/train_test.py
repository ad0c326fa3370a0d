"""Tests calm_jax/workflows/training.py: whole runs, stopped and resumed."""

import copy
import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
from etils import epath

from calm_jax import config, config_file
from calm_jax.checkpoint.run_directory import RunDirectory, load_run
from calm_jax.checkpoint.steps import list_steps
from calm_jax.data.tokenizer_ids import IdTokenizer
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.interop.export import export
from calm_jax.interop.lazy_arrays import save_step
from calm_jax.json_files import read_rows
from calm_jax.runs.runner import evaluate_run
from calm_jax.training.log import NonFiniteError
from calm_jax.workflows.training import run_training
from tests.data.prepared import prepare
from tests.training import boards

_TIMINGS = ("tokens_per_second", "goodput", "seconds")
_NUM_STEPS = 6


def _experiment(stage, data, autoencoder_run=""):
  backbone = {
    "hidden_size": 16,
    "ffn_size": 32,
    "num_layers": 2,
    "num_heads": 2,
  }
  models = {
    "autoencoder": lambda: config.AutoencoderConfig(
      chunk_size=2, latent_size=8, hidden_size=16, ffn_size=32
    ),
    "next_vector": lambda: config.NextVectorConfig(
      **backbone,
      chunk_size=2,
      head=config.EnergyHeadConfig(num_samples=2, num_targets=4),
    ),
    "token": lambda: config.TokenModelConfig(**backbone),
  }
  return config.ExperimentConfig(
    model=models[stage](),
    autoencoder_run=autoencoder_run if stage == "next_vector" else "",
    data=config.DataConfig(path=str(data), row_length=16, batch_size=8),
    optimizer=config.OptimizerConfig(
      learning_rate=1e-2, schedule="cosine", num_warmup_steps=2
    ),
    num_steps=_NUM_STEPS,
    log_interval=4,
    save_interval=100,
    eval_interval=3,
    num_eval_rows=4,
    num_scored_rows=4,
  )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  documents = [f"Line {i}: {i * i} is the square of {i}." for i in range(50)]
  path = tmp_path_factory.mktemp("data")
  return prepare(path, documents[5:], documents[:5]).path


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
  """Uninterrupted runs of both stages."""
  path = tmp_path_factory.mktemp("whole")
  for stage in ("autoencoder", "next_vector"):
    experiment = _experiment(stage, data, str(path / "autoencoder"))
    assert run_training(experiment, path / stage).reason == "finished"
  return path


def _stop_at(step):
  """An evaluator that sends the signal a preempted machine gets."""

  def evaluate(params, at):
    if at == step:
      os.kill(os.getpid(), signal.SIGTERM)
    return {}

  return lambda *unused: {"stop": evaluate}


def _rows(path):
  return [
    {name: it for name, it in row.items() if name not in _TIMINGS}
    for row in read_rows(path / "metrics.jsonl")
    if len(row) > 1
  ]


def _assert_same_run(found, expected):
  first, second = load_run(found), load_run(expected)
  assert first.step == second.step
  jax.tree.map(np.testing.assert_array_equal, first.params, second.params)
  assert _rows(found) == _rows(expected)
  boards.assert_same_rows(found)


@pytest.mark.parametrize("stage", ["autoencoder", "next_vector"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
  stage, data, whole, tmp_path
):
  experiment = _experiment(stage, data, str(whole / "autoencoder"))
  result = run_training(experiment, tmp_path, evaluators_fn=_stop_at(3))
  assert (result.step, result.reason) == (4, "stopped")
  assert list_steps(tmp_path / "steps") == [4]
  assert run_training(experiment, tmp_path).step == _NUM_STEPS
  _assert_same_run(tmp_path, whole / stage)


@pytest.mark.slow
def test_a_stopped_run_with_muon_goes_on_as_if_it_had_not_been(data, tmp_path):
  experiment = _experiment("token", data)
  experiment.optimizer.name = "muon"
  assert run_training(experiment, tmp_path / "whole").step == _NUM_STEPS
  stopped = tmp_path / "stopped"
  assert run_training(experiment, stopped, evaluators_fn=_stop_at(3)).step == 4
  assert run_training(experiment, stopped).step == _NUM_STEPS
  _assert_same_run(stopped, tmp_path / "whole")


@pytest.mark.parametrize("stage", ["autoencoder", "next_vector"])
def test_scores_in_training_are_those_of_evaluation(stage, data, whole):
  run = load_run(whole / stage)
  settings = PredictionSettings(num_samples=2, seed=run.config.seed)
  expected = evaluate_run(run, str(data), settings, num_rows=4)
  last = read_rows(whole / stage / "metrics.jsonl")[-1]
  found = {
    name.removeprefix("score/"): value
    for name, value in last.items()
    if name.startswith("score/")
  }
  assert {"token_accuracy"} <= {*found} or {"brier_lm", "brier_4"} <= {*found}
  for name, value in found.items():
    if isinstance(expected[name], float):
      assert value == pytest.approx(expected[name], rel=1e-5), name
    else:
      assert value is None, name


def test_rows_of_a_run_say_what_is_logged(whole):
  names = {"loss", "gradient_norm", "update_ratio", "learning_rate"}
  names.add("skipped_steps")
  autoencoder = {"cross_entropy", "kl", "latent_std", "dead_dimensions"}
  energy = {"energy_fidelity", "energy_diversity", "sample_spread"}
  for stage, more in [
    ("autoencoder", autoencoder | {"token_accuracy"}),
    ("next_vector", energy | {"latent_std", "dead_dimensions"}),
  ]:
    rows = _rows(whole / stage)
    by_step = {row["step"]: row for row in rows if "loss" in row}
    assert list(by_step) == [4, 6]
    assert names | more | {"step"} == set(by_step[4])
    assert [row["step"] for row in rows if "valid/loss" in row] == [3, 6]
    assert (whole / stage / "tensorboard").is_dir()


def test_a_run_needs_nothing_outside_its_directory_but_data(
  data, whole, tmp_path
):
  experiment = _experiment("next_vector", data, str(whole / "autoencoder"))
  run_training(experiment, tmp_path / "a", evaluators_fn=_stop_at(3))
  moved = (tmp_path / "a").rename(tmp_path / "b")
  experiment.autoencoder_run = str(whole / "autoencoder")
  saved = load_run(moved)
  assert saved.autoencoder is not None
  # The autoencoder's own run may be gone by now.
  gone = dataclasses.replace(experiment, autoencoder_run="")
  assert run_training(gone, moved).step == _NUM_STEPS
  _assert_same_run(moved, whole / "next_vector")


def test_an_auxiliary_loss_is_resumed_and_not_exported(data, whole, tmp_path):
  experiment = _experiment("next_vector", data, str(whole / "autoencoder"))
  experiment.eval_interval = 0
  experiment.model.auxiliary_weight = 0.5
  run_training(experiment, tmp_path / "whole")
  run_training(experiment, tmp_path / "run", evaluators_fn=_stop_at(3))
  assert run_training(experiment, tmp_path / "run").step == _NUM_STEPS
  _assert_same_run(tmp_path / "run", tmp_path / "whole")
  assert {"auxiliary_nats", "head_loss"} <= set(_rows(tmp_path / "run")[-1])

  saved = load_run(tmp_path / "run")
  assert saved.params.pop("auxiliary")
  plain = dataclasses.replace(
    saved.config.model, auxiliary_weight=0.0, auxiliary_size=None
  )
  other = RunDirectory(tmp_path / "other")
  other.create(
    dataclasses.replace(saved.config, model=plain),
    saved.tokenizer,
    saved.autoencoder,
  )
  save_step(other.steps, saved.params, saved.hashes)
  done = []
  for name in ("run", "other"):
    export(
      tmp_path / name,
      tmp_path / f"{name}-out",
      progress=lambda *counts: done.append(counts),
    )
    assert done[-1][0] == done[-1][1]
  path = "model.safetensors"
  found, expected = (tmp_path / f"{name}-out" for name in ("run", "other"))
  assert (found / path).read_bytes() == (expected / path).read_bytes()


def test_another_autoencoder_is_refused(data, whole, tmp_path):
  experiment = _experiment("next_vector", data, str(whole / "autoencoder"))
  run_training(experiment, tmp_path / "run", evaluators_fn=_stop_at(3))
  other = _experiment("autoencoder", data)
  other.data.seed = 1
  run_training(other, tmp_path / "other")
  experiment.autoencoder_run = str(tmp_path / "other")
  with pytest.raises(ValueError, match=r"is not the one that .* was started"):
    run_training(experiment, tmp_path / "run")


def test_what_does_not_fit_ends_before_anything_is_written(
  data, whole, tmp_path
):
  autoencoder_run = str(whole / "autoencoder")
  changes = [
    ("a trained autoencoder", {"autoencoder_run": ""}),
    (
      "run of a next_vector model",
      {"autoencoder_run": str(whole / "next_vector")},
    ),
    ("no directory", {"autoencoder_run": str(tmp_path / "none")}),
    ("seed is 'x'", {"seed": "x"}),
    ("the 8 devices", {"mesh": config.MeshConfig(fsdp=3)}),
    (
      "not a multiple of 16",
      {"num_microbatches": 2, "mesh": config.MeshConfig(data=8)},
    ),
    (
      "leave nothing to score",
      {"data": config.DataConfig(path=str(data), row_length=4, batch_size=8)},
    ),
  ]
  for message, change in changes:
    experiment = _experiment("next_vector", data, autoencoder_run)
    for name, value in change.items():
      setattr(experiment, name, value)
    with pytest.raises((ValueError, OSError), match=message):
      run_training(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_losses_that_stay_infinite_stop_the_run(data, tmp_path):
  experiment = _experiment("token", data)
  experiment.save_interval = 1
  experiment.max_skipped_steps = 2
  experiment.optimizer.learning_rate = 1e15  # the first step's update is finite
  experiment.optimizer.clip_norm = 1e30
  with pytest.raises(NonFiniteError, match=r"of step 3 .* norm nan"):
    run_training(experiment, tmp_path)
  assert list_steps(tmp_path / "steps") == [2, 3, 4]
  first, last = (load_run(tmp_path, step).params for step in (2, 4))
  jax.tree.map(np.testing.assert_array_equal, first, last)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(last))


def test_an_update_that_is_not_finite_changes_nothing(data, tmp_path):
  experiment = _experiment("token", data)
  experiment.max_skipped_steps = 2
  experiment.optimizer.learning_rate = 1e30
  with pytest.raises(NonFiniteError, match="but the update is not finite"):
    run_training(experiment, tmp_path)
  assert all(
    np.isfinite(leaf).all()
    for leaf in jax.tree.leaves(load_run(tmp_path).params)
  )


def test_a_new_run_spoils_nothing_that_is_there(data, tmp_path):
  experiment = _experiment("token", data)
  before = (epath.Path(data) / "tokenizer").glob("*")
  before = {path: path.read_bytes() for path in before}
  with pytest.raises(ValueError, match="holds prepared data"):
    run_training(experiment, data)
  assert all(path.read_bytes() == it for path, it in before.items())
  ids = config.VocabularyConfig(size=9, begin_id=0, end_id=1, unscored_ids=(0,))
  IdTokenizer(ids).save(RunDirectory(tmp_path / "run").tokenizer)
  with pytest.raises(ValueError, match="is another tokenizer"):
    run_training(experiment, tmp_path / "run")
  run = RunDirectory(tmp_path / "begun")
  run_training(experiment, run.path)
  run.config_file.unlink()
  with pytest.raises(ValueError, match=r"saved steps and no config\.json"):
    run_training(experiment, run.path)


def test_arrays_that_do_not_fit_are_not_called_damaged(data, tmp_path):
  experiment = _experiment("token", data)
  run_training(experiment, tmp_path)
  for field, part, value in (
    ("optimizer.name", "optimizer", "muon"),
    ("model.ffn_size", "model", 48),
  ):
    changed = copy.deepcopy(experiment)
    setattr(getattr(changed, part), field.split(".")[1], value)
    with pytest.raises(ValueError, match=f"with another {field} there are"):
      run_training(changed, tmp_path, allow_change=[field])
  assert list_steps(tmp_path / "steps")
  assert not (tmp_path / "damaged").exists()


def test_what_may_change_is_named_and_kept_in_the_config(data, tmp_path):
  experiment = _experiment("token", data)
  with pytest.raises(ValueError, match=r"no field optimizer\.rate"):
    run_training(experiment, tmp_path, allow_change=["optimizer.rate"])
  # As a job is started again, with all its flags.
  for _ in range(2):
    run_training(experiment, tmp_path, profile=range(1, 2))
  experiment.optimizer.learning_rate = 5e-3
  experiment.num_steps += 2
  with pytest.raises(
    ValueError, match=r"allow_change=optimizer\.learning_rate"
  ):
    run_training(experiment, tmp_path)
  rate = ["optimizer.learning_rate"]
  with pytest.raises(ValueError, match="its cosine schedule would give"):
    run_training(experiment, tmp_path, allow_change=rate)
  result = run_training(experiment, tmp_path, allow_change=[*rate, "num_steps"])
  assert result.step == _NUM_STEPS + 2
  history = config_file.read_beside(tmp_path / "config.json", "history")
  change = {"step": _NUM_STEPS}
  assert history == [  # in the order of the config's fields
    change | {"field": rate[0], "from": 1e-2, "to": 5e-3},
    change | {"field": "num_steps", "from": _NUM_STEPS, "to": _NUM_STEPS + 2},
  ]
  experiment.num_steps = 1
  experiment.optimizer.num_warmup_steps = 0
  allowed = ["num_steps", "optimizer.num_warmup_steps"]
  with pytest.raises(ValueError, match=rf"has done {_NUM_STEPS + 2} steps"):
    run_training(experiment, tmp_path, allow_change=allowed)
  saved = config_file.read(tmp_path / "config.json", config.ExperimentConfig)
  assert saved.num_steps == _NUM_STEPS + 2
