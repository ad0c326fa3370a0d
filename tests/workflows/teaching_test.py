"""Tests workflows/teaching.py and the table of ids from another kind of run."""

import dataclasses
import functools
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import config
from calm_jax.checkpoint.run_directory import load_run
from calm_jax.families.matrix_flops import matrix_flops
from calm_jax.json_files import read_rows
from calm_jax.randomness import chunk_keys, stream_key
from calm_jax.sampling.token_sampler import TokenSampler
from calm_jax.scaling.flops import training_flops
from calm_jax.training.teacher import following_chunks
from calm_jax.workflows.training import run_training
from experiments import continued
from tests.data.prepared import prepare

_BACKBONE = {"hidden_size": 16, "ffn_size": 32, "num_layers": 1, "num_heads": 2}
_MODELS = {
  "autoencoder": config.AutoencoderConfig(
    chunk_size=2, latent_size=8, hidden_size=16, ffn_size=32
  ),
  "calm": config.NextVectorConfig(
    **_BACKBONE,
    chunk_size=2,
    head=config.EnergyHeadConfig(num_samples=2, num_targets=4),
  ),
  "token": config.TokenModelConfig(**_BACKBONE),
}


def _experiment(path, name, **data):
  return config.ExperimentConfig(
    model=_MODELS[name],
    autoencoder_run=str(path / "autoencoder") if name == "calm" else "",
    data=config.DataConfig(
      **{"path": str(path / "store"), "row_length": 16, "batch_size": 4, **data}
    ),
    num_steps=4,
    log_interval=1,
    eval_interval=4,
    num_eval_rows=4,
  )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """An autoencoder, two token models, and one CALM taught by the first."""
  path = tmp_path_factory.mktemp("runs")
  documents = [f"Line {i}: {i * i} is the square of {i}." for i in range(50)]
  prepare(path, documents[5:], documents[:5])
  for name in ("autoencoder", "token"):
    run_training(_experiment(path, name), path / name)
  other = dataclasses.replace(_experiment(path, "token"), seed=1)
  run_training(other, path / "other")
  run_training(_taught(path), path / "taught")
  return path


def _taught(path, teacher="token", **data):
  data = {"teacher_run": str(path / teacher), "teacher_share": 0.7, **data}
  return _experiment(path, "calm", **data)


def _rows(path, *names):
  return [
    [row[name] for name in names]
    for row in read_rows(path / "metrics.jsonl")
    if "loss" in row
  ]


def test_a_taught_run_learns_from_what_the_teacher_wrote(runs, tmp_path):
  saved = load_run(runs / "taught")
  assert saved.config.teacher == load_run(runs / "token").config.model
  alone = _experiment(runs, "calm")
  run_training(alone, tmp_path / "alone")
  taught, untaught = (
    _rows(path, "loss") for path in (runs / "taught", tmp_path / "alone")
  )
  assert all(np.isfinite(taught)) and taught != untaught
  # Held-out text is scored as it stands, so at the same parameters alike.
  before = dataclasses.replace(alone, optimizer=_no_steps())
  after = dataclasses.replace(_taught(runs), optimizer=_no_steps())
  run_training(before, tmp_path / "before")
  run_training(after, tmp_path / "after")
  valid = [
    [
      row["valid/loss"]
      for row in read_rows(tmp_path / name / "metrics.jsonl")
      if "valid/loss" in row
    ]
    for name in ("before", "after")
  ]
  assert len(valid[0]) == 1
  np.testing.assert_allclose(*valid, rtol=1e-6)


def _no_steps():
  return config.OptimizerConfig(learning_rate=1e-20)


def test_a_stopped_run_is_taught_the_same_again(runs, tmp_path):
  def stop(params, step):
    if step == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return {}

  experiment = _taught(runs)
  experiment.eval_interval = 2
  stopped = run_training(
    experiment, tmp_path / "run", evaluators_fn=lambda *_: {"stop": stop}
  )
  assert stopped.reason == "stopped"
  assert run_training(experiment, tmp_path / "run").step == 4
  jax.tree.map(
    np.testing.assert_array_equal,
    load_run(tmp_path / "run").params,
    load_run(runs / "taught").params,
  )


def test_what_the_teacher_reads_is_counted(runs):
  saved = load_run(runs / "taught").config
  alone = dataclasses.replace(saved, teacher=None)
  more = training_flops(saved, convention="executed") - training_flops(
    alone, convention="executed"
  )
  tokens = jnp.zeros((4, saved.num_chunks, 2), jnp.int32)
  keys = chunk_keys(stream_key(0, "test"), np.arange(4), saved.num_chunks)

  def write(params):
    return following_chunks(TokenSampler(saved.teacher, params), tokens, keys)

  traced = jax.make_jaxpr(write)(load_run(runs / "token").params)
  # Paths attend to each other's masked places, too.
  assert 0.8 < more / (saved.num_steps * matrix_flops(traced)) <= 1
  assert training_flops(saved) == training_flops(alone)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda path: _taught(path, "nobody"), "data.teacher_run=.*no directory"),
    (lambda path: _taught(path, teacher_step=3), "step 3 is not in"),
    (
      lambda path: _taught(path, "autoencoder"),
      "kind 'autoencoder'",
    ),
    (lambda path: _taught(path, row_length=32), "rows of 16.*is 32"),
    (lambda path: _taught(path, teacher_share=1.5), "between 0 and 1"),
    (lambda path: _taught(path, teacher_temperature=0.0), "positive"),
    (
      lambda path: _experiment(path, "token", teacher_run=str(path / "token")),
      "kind 'token' is not taught",
    ),
  ],
)
def test_who_cannot_teach_is_refused(change, words, runs, tmp_path):
  with pytest.raises((ValueError, OSError), match=words):
    run_training(change(runs), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_another_teacher_is_refused_when_a_run_goes_on(runs):
  experiment = _taught(runs, "other")
  with pytest.raises(ValueError, match="the teacher is not the one that step"):
    run_training(experiment, runs / "taught")


def test_a_run_keeps_the_step_of_its_teacher(runs, tmp_path):
  shutil.copytree(runs / "token", tmp_path / "token")
  shutil.copytree(runs / "taught", tmp_path / "taught")
  longer = dataclasses.replace(_experiment(runs, "token"), num_steps=5)
  run_training(longer, tmp_path / "token", allow_change=["num_steps"])
  moved = _taught(runs, teacher_run=str(tmp_path / "token"))
  assert run_training(moved, tmp_path / "taught").step == 4
  assert load_run(tmp_path / "taught").config.data.teacher_step == 4


def test_a_taught_run_is_gone_on_from_without_a_teacher(runs, tmp_path):
  experiment = continued.get_config(str(runs / "taught"))
  experiment.data.path = str(runs / "store")
  experiment.data.row_length = 16
  experiment.num_steps = 1
  run_training(experiment, tmp_path / "run", initial_run=runs / "taught")
  assert load_run(tmp_path / "run").config.teacher is None


def test_what_a_run_starts_from_is_checked_until_a_step_is_saved(
  runs, tmp_path
):
  shutil.copytree(runs / "token", tmp_path / "run")
  shutil.rmtree(tmp_path / "run/steps")
  experiment = _experiment(runs, "token")
  with pytest.raises(ValueError, match="has the parameter"):
    run_training(experiment, tmp_path / "run", initial_run=runs / "taught")


@pytest.mark.parametrize(
  ("name", "source", "table"),
  [
    ("calm", "token", lambda params: params["chunk_embed"]),
    ("token", "taught", lambda params: params),
    ("token", "autoencoder", lambda params: params),
  ],
)
def test_the_table_of_ids_can_come_from_another_kind(
  name, source, table, runs, tmp_path
):
  experiment = _experiment(runs, name)
  experiment.optimizer = _no_steps()
  experiment.num_steps = 1
  path = tmp_path / "run"
  run_training(experiment, path, initial_embedding=runs / source)
  run_training(experiment, tmp_path / "new")
  given = load_run(runs / source).params
  given = given.get("chunk_embed", given)["embedding"]["embedding"]
  found, new = load_run(path).params, load_run(tmp_path / "new").params
  np.testing.assert_array_equal(table(found)["embedding"]["embedding"], given)
  table(found)["embedding"] = table(new)["embedding"]
  # What starts at 0 has moved by 1e-23, rounded as the tables of both have it.
  same = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-29)
  jax.tree.map(same, found, new)


def test_a_table_of_another_width_is_refused(runs, tmp_path):
  experiment = _experiment(runs, "token")
  experiment.model = dataclasses.replace(experiment.model, hidden_size=8)
  with pytest.raises(ValueError, match="same hidden_size"):
    run_training(experiment, tmp_path / "run", initial_embedding=runs / "token")
  assert not (tmp_path / "run").exists()
