"""Tests what the quickstart asks of its stages; CI runs it as a whole."""

import dataclasses

import jax
import pytest

from calm_jax.checkpoint.run_directory import LoadedRun, RunDirectory
from calm_jax.data.tokenizer import ByteTokenizer
from calm_jax.training.loop import Result
from calm_jax.workflows import quickstart
from experiments import quickstart as experiment
from tests.training import tiny


class _Enough(Exception):
  pass


def test_scale_and_seed_reach_both_runs(monkeypatch, tmp_path):
  trained = []

  def train(config, directory, *, name):
    trained.append(config)
    if name == "calm":
      raise _Enough
    return Result(None, config.num_steps, "finished")

  monkeypatch.setattr(quickstart.preparation, "prepare", lambda *_, **__: None)
  monkeypatch.setattr(quickstart, "run_training", train)
  monkeypatch.setattr(quickstart, "load_run", lambda _: None)
  monkeypatch.setattr(quickstart, "_score", lambda *_: {})
  with pytest.raises(_Enough):
    quickstart.run_quickstart(
      tmp_path,
      autoencoder=experiment.get_config("autoencoder"),
      calm=experiment.get_config("calm"),
      scale=0.5,
      seed=7,
    )
  assert [it.seed for it in trained] == [7, 7]
  assert [it.num_steps for it in trained] == [150, 600]
  assert trained[1].autoencoder_run == str(tmp_path / "autoencoder")


def test_a_signal_ends_it(monkeypatch, tmp_path):
  trained = []

  def train(config, directory, *, name):
    del config, directory
    trained.append(name)
    return Result(None, 3, "stopped")

  monkeypatch.setattr(quickstart.preparation, "prepare", lambda *_, **__: None)
  monkeypatch.setattr(quickstart, "run_training", train)
  found = quickstart.run_quickstart(
    tmp_path,
    autoencoder=experiment.get_config("autoencoder"),
    calm=experiment.get_config("calm"),
  )
  assert found is None
  assert trained == ["autoencoder"]
  assert not list(tmp_path.iterdir())


def test_a_calm_of_another_autoencoder_is_refused(tmp_path):
  settings = tiny.experiment("next_vector")
  run = RunDirectory(tmp_path / "calm")
  frozen = tiny.params(settings.autoencoder)
  run.create(settings, ByteTokenizer(), frozen)
  trained = LoadedRun(
    path=tmp_path / "autoencoder",
    config=dataclasses.replace(settings, model=settings.autoencoder),
    params=frozen,
    autoencoder=None,
    tokenizer=ByteTokenizer(),
    step=1,
    hashes={},
  )
  quickstart._check_frozen(run, trained)
  other = jax.tree.map(lambda x: x + 1, frozen)
  with pytest.raises(ValueError, match="begun on another autoencoder"):
    quickstart._check_frozen(run, dataclasses.replace(trained, params=other))


def test_both_recipes_read_the_same_text_with_the_same_model():
  fast = experiment.get_config("calm")
  paper = experiment.get_config("calm_paper")
  assert (fast.optimizer.name, paper.optimizer.name) == ("muon", "adamw")
  assert fast.model.brier_weight and not paper.model.brier_weight
  for name in ("data", "num_steps", "seed"):
    assert getattr(fast, name) == getattr(paper, name)
  for name in ("hidden_size", "ffn_size", "num_layers", "num_heads"):
    assert getattr(fast.model, name) == getattr(paper.model, name)
