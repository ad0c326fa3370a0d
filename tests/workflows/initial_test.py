"""Tests calm_jax/workflows/initial.py: training goes on from converted runs."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.data.tokenizer import load_tokenizer
from calm_jax.interop.conversion import convert
from calm_jax.workflows.training import run_training
from experiments import continued
from tests.data.prepared import prepare
from tests.interop import checkpoints


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
  """A converted CALM, and data of its token ids."""
  return _convert("energy", tmp_path_factory.mktemp("converted"))


def _convert(name, path):
  convert(checkpoints.FIXTURES / name, path / "run")
  rng = np.random.default_rng(0)
  documents = [" ".join(map(str, rng.integers(3, 37, 50))) for _ in range(30)]
  tokenizer = load_tokenizer(path / "run" / "tokenizer")
  prepare(path, documents[2:], documents[:2], tokenizer=tokenizer)
  return path


def _experiment(path):
  experiment = continued.get_config(str(path / "run"))
  experiment.data.path = str(path / "store")
  experiment.data.row_length = 16
  experiment.num_steps = 1
  # Too little to be seen, enough to be a step.
  experiment.optimizer.learning_rate = 1e-20
  return experiment


_slow = functools.partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.parametrize(
  "name", ["ae", "energy", _slow("ar"), _slow("diffusion"), _slow("flow")]
)
def test_training_goes_on_from_a_converted_run(name, tmp_path):
  _convert(name, tmp_path)
  experiment = _experiment(tmp_path)
  before = load_run(tmp_path / "run")
  result = run_training(
    experiment, tmp_path / "new", initial_run=tmp_path / "run"
  )
  assert result.step == 1
  after = load_run(tmp_path / "new")
  jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
  jax.tree.map(
    np.testing.assert_array_equal, before.autoencoder, after.autoencoder
  )
  assert after.config.model == before.config.model
  # What was killed before its first save does not begin without them.
  (tmp_path / "killed").mkdir()
  for name in ("config.json", "tokenizer", "autoencoder"):
    if (tmp_path / "new" / name).exists():
      move = shutil.copytree if name != "config.json" else shutil.copy
      move(tmp_path / "new" / name, tmp_path / "killed" / name)
  with pytest.raises(
    ValueError, match=r"started with --initial_run=.* without"
  ):
    run_training(experiment, tmp_path / "killed")
  # Of a start by an earlier version nobody knows.
  settings = tmp_path / "killed" / "config.json"
  content = json.loads(settings.read_text())
  assert content.pop("origins") == {"initial_run": str(tmp_path / "run")}
  settings.write_text(json.dumps(content))
  assert run_training(experiment, tmp_path / "killed").step == 1
  # From then on the new run is by itself.
  (tmp_path / "run").rename(tmp_path / "gone")
  assert run_training(experiment, tmp_path / "new").step == 1


def test_another_model_is_refused(converted, tmp_path):
  experiment = _experiment(converted)
  experiment.model.num_layers = 3
  with pytest.raises(ValueError, match=r"has the parameter backbone/layers/"):
    run_training(experiment, tmp_path / "new", initial_run=converted / "run")


def test_another_tokenizer_is_refused(converted, tmp_path):
  prepare(tmp_path, ["some text"] * 9, ["some text"] * 3)
  experiment = _experiment(converted)
  experiment.model.vocabulary = None
  experiment.data.path = str(tmp_path / "store")
  with pytest.raises(ValueError, match="prepare the data with the autoenc"):
    run_training(experiment, tmp_path / "new", initial_run=converted / "run")


def test_the_experiment_asks_for_a_run(tmp_path):
  with pytest.raises(ValueError, match="give the earlier run"):
    continued.get_config()
  with pytest.raises(ValueError, match="is not a run directory"):
    continued.get_config(str(tmp_path))
