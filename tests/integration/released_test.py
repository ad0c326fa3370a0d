"""What every released version wrote is read for ever.

`fixtures/released/COMMIT` holds configs of all kinds and runs of each family,
with prepared data and the results that were got then.
"""

import json
import pathlib
import shutil
import tarfile

import jax
import pytest

from calm_jax import config, config_file
from calm_jax.checkpoint.run_directory import RunDirectory, load_run
from calm_jax.config import ExperimentConfig
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.interop.conversion import convert
from calm_jax.interop.export import export
from calm_jax.runs.continuation import TextGenerator
from calm_jax.runs.runner import evaluate_run
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.workflows.training import run_training

_TESTS = pathlib.Path(__file__).parent.parent
_VERSIONS = sorted((_TESTS / "fixtures" / "released").iterdir())
_BENCHMARKS = [
  path
  for path in sorted((_TESTS.parent / "benchmarks").rglob("*.json"))
  if "config" in json.loads(path.read_text())
]
# By family, the scores that no draw of tokens decides: another compiler rounds
# otherwise, and then a draw falls elsewhere.
_CERTAIN = {
  "autoencoder": ("kl", "posterior_std", "num_positions"),
  "calm": ("energy_loss", "num_positions"),
  "token": ("accuracy_1", "cross_entropy", "num_positions"),
}
_FAMILIES = tuple(_CERTAIN)


@pytest.fixture(
  scope="module", params=_VERSIONS, ids=lambda version: version.name
)
def runs(request, tmp_path_factory):
  """A directory with the runs of one version."""
  directory = tmp_path_factory.mktemp("released")
  with tarfile.open(request.param / "runs.tar.xz") as archive:
    archive.extractall(directory, filter="data")
  return directory


def _configs():
  for version in _VERSIONS:
    for name, values in json.loads(
      (version / "configs.json").read_text()
    ).items():
      yield pytest.param(values, id=f"{version.name}-{name}")


@pytest.mark.parametrize("values", list(_configs()))
def test_configs_are_read_as_they_were_meant(values):
  found = config_file.from_dict(ExperimentConfig, values)
  assert config_file.to_dict(found, with_absent=False) == values
  assert config.news(found) == {}


@pytest.mark.parametrize(
  "path", _BENCHMARKS, ids=lambda path: "-".join(path.parts[-2:])
)
def test_configs_of_committed_results_are_read(path):
  values = json.loads(path.read_text())["config"]
  found = config_file.from_dict(ExperimentConfig, values)
  # A field younger than the result is not in it, and is at its absent value.
  assert _only(config_file.to_dict(found), fields_of=values) == values
  needed = config_file.to_dict(found, with_absent=False)
  assert _only(values, fields_of=needed) == needed


def _only(values, *, fields_of):
  """`values` with no other fields than those of another tree."""
  if not isinstance(fields_of, dict):
    return values
  return {
    name: _only(values[name], fields_of=inner)
    for name, inner in fields_of.items()
  }


def test_there_are_committed_results():
  names = {path.parent.name for path in _BENCHMARKS}
  assert names == {"choose", "drafting", "heads", "real_text"}


@pytest.mark.parametrize("family", _FAMILIES)
def test_runs_score_as_they_did(runs, family):
  expected = json.loads((runs / f"{family}.eval.json").read_text())
  found = evaluate_run(
    load_run(runs / family),
    str(runs / "data"),
    PredictionSettings(num_samples=4, permuted=family != "autoencoder"),
    num_rows=8,
  )
  assert found.keys() >= expected.keys()
  for name in _CERTAIN[family]:
    assert found[name] == pytest.approx(expected[name], rel=1e-3)


@pytest.mark.parametrize("family", ["calm", "token"])
def test_runs_generate(runs, family):
  settings = SamplingSettings(temperature=0.5, num_candidates=8)
  generator = TextGenerator(load_run(runs / family), settings)
  found = generator.continue_prompts(["the old"], num_tokens=16)
  assert found[0][0].tokens


@pytest.mark.parametrize("family", _FAMILIES)
def test_runs_are_trained_on(runs, family, monkeypatch, tmp_path):
  devices = jax.devices()[:1]
  monkeypatch.setattr(jax, "devices", lambda *_: devices)
  run = shutil.copytree(runs / family, tmp_path / family)
  saved = RunDirectory(run).read_config()
  saved.autoencoder_run = ""
  saved.data.path = str(runs / "data")
  saved.num_steps += 2
  result = run_training(saved, run)
  assert (result.step, result.reason) == (22, "finished")


def test_runs_are_converted_and_back(runs, tmp_path):
  for family in _FAMILIES:
    export(runs / family, tmp_path / family)
  convert(tmp_path / "calm", tmp_path / "back")
  assert load_run(tmp_path / "back").config.model.head.alpha == 1.0
