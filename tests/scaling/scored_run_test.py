"""Tests calm_jax/scaling/scored_run.py."""

import dataclasses
import json

import pytest

from calm_jax import config as configs
from calm_jax import config_file
from calm_jax.scaling import flops
from calm_jax.scaling.points import Point
from calm_jax.scaling.scored_run import read_point

_VOCABULARY = configs.VocabularyConfig(size=258, begin_id=256, end_id=257)
_BACKBONE = {
  "vocabulary": _VOCABULARY,
  "hidden_size": 48,
  "ffn_size": 96,
  "num_heads": 4,
}
_DATA = configs.DataConfig(path="x", row_length=32, batch_size=4)


def _config(kind):
  autoencoder = configs.AutoencoderConfig(
    vocabulary=_VOCABULARY, chunk_size=2, latent_size=64
  )
  if kind == "autoencoder":
    return configs.ExperimentConfig(model=autoencoder, data=_DATA)
  if kind == "token":
    return configs.ExperimentConfig(
      model=configs.TokenModelConfig(**_BACKBONE), data=_DATA, seed=7
    )
  return configs.ExperimentConfig(
    model=configs.NextVectorConfig(**_BACKBONE, chunk_size=2, latent_size=64),
    autoencoder=autoencoder,
    data=_DATA,
    num_steps=100,
  )


def _write(path, kind, **changes):
  result = {
    "kind": kind,
    "brier_1": 0.2,
    "brier_1_stderr": 0.01,
    "brier_lm": "not resolved",
    "brier_lm_stderr": None,
    "step": 100,
    "seed": 3,
    "config": config_file.to_dict(_config(kind)),
  }
  path.write_text(json.dumps(result | changes))
  return path


def test_point_of_a_calm(tmp_path):
  config = _config("next_vector")
  point = read_point(_write(tmp_path / "r.json", "next_vector"), "a")
  sampled = flops.inference_flops_per_token(
    config.model,
    num_positions=16,
    autoencoder=config.autoencoder,
    temperature=0.5,
    convention="executed",
  )
  assert point == Point(
    name="a",
    family="calm",
    parameters=sum(flops.num_parameters(config.model).values()),
    tokens=100 * 4 * 32,
    chunk_size=2,
    backbone_parameters=flops.num_parameters(config.model)["backbone"],
    autoencoder_parameters=sum(
      flops.num_parameters(config.autoencoder).values()
    ),
    training_flops=flops.training_flops(config, convention="executed"),
    inference_flops=point.inference_flops,
    inference_flops_sampled=sum(sampled.values()),
    scores={"brier_1": 0.2},
    errors={"brier_1": 0.01},
  )
  assert 0 < point.inference_flops < point.inference_flops_sampled / 50


def test_the_training_of_its_autoencoder_stands_beside_that_of_a_calm(tmp_path):
  result = _write(tmp_path / "r.json", "next_vector")
  alone = read_point(result, "a")
  frozen = _write(tmp_path / "autoencoder.json", "autoencoder", step=40)
  point = read_point(result, "a", autoencoder=frozen)
  assert dataclasses.replace(point, autoencoder_flops=0.0) == alone
  expected = flops.training_flops(
    _config("autoencoder"), num_steps=40, convention="executed"
  )
  assert point.autoencoder_flops == expected > 0
  assert point.whole_training_flops == point.training_flops + expected


def test_point_of_a_token_model(tmp_path):
  path = _write(tmp_path / "r.json", "token", cross_entropy=2.5)
  point = read_point(path, "b")
  assert (point.family, point.chunk_size, point.seed) == ("token", 1, 7)
  assert point.scores == {"brier_1": 0.2, "cross_entropy": 2.5}
  assert point.inference_flops == point.inference_flops_sampled
  # Training passes thrice over what inference passes over once.
  expected = 3 * point.inference_flops * point.tokens
  assert point.training_flops == pytest.approx(expected)


_CHOICES = {
  "estimate": "exact",
  "accuracy": 0.4,
  "accuracy_stderr": 0.03,
  "chance": 0.25,
  "log_score": -12.5,
  "log_score_stderr": 0.5,
  "estimates": {"exact": {"log_score": -12.5, "log_score_stderr": 0.5}},
  "step": 100,
  "task_hash": "a",
}


def test_the_nats_of_a_calm_are_those_of_the_kernel(tmp_path):
  result = _write(tmp_path / "r.json", "next_vector")
  estimates = {
    "energy": {"log_score": -0.7, "log_score_stderr": 0.1},
    "kernel": {"log_score": -12.5, "log_score_stderr": 0.5},
  }
  change = {"estimate": "energy", "log_score": -0.7, "estimates": estimates}
  path = tmp_path / "choices.json"
  path.write_text(json.dumps(_CHOICES | change))
  point = read_point(result, "a", choices=path)
  assert (point.scores["cloze_nats"], point.errors["cloze_nats"]) == (12.5, 0.5)
  assert point.scores["cloze_accuracy"] == pytest.approx(0.2)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"chance": 1.0}, "leaves no accuracy above it"),
    ({"accuracy": None}, "accuracy is None, not a number"),
    ({"accuracy": "0.4"}, "accuracy is '0.4', not a number"),
    ({"accuracy_stderr": "x"}, "accuracy_stderr is 'x', not a number"),
    ({"step": "100"}, "step is '100', not a training step"),
    ({"estimates": [1]}, "estimates is no JSON object"),
    ({"estimates": {"energy": {}}}, "estimates.exact is None"),
    ({"estimates": {"kernel": {}}}, "estimates.kernel: log_score is None"),
  ],
)
def test_damaged_answers_are_refused_by_name(tmp_path, changes, message):
  result = _write(tmp_path / "r.json", "token")
  path = tmp_path / "choices.json"
  path.write_text(json.dumps(_CHOICES | changes))
  with pytest.raises(ValueError, match=message) as error:
    read_point(result, "a", choices=path)
  assert str(path) in str(error.value)


def test_answered_questions_are_scores(tmp_path):
  result = _write(tmp_path / "r.json", "token", bytes_per_token=4.2)
  found = _CHOICES
  path = tmp_path / "choices.json"
  path.write_text(json.dumps(found))
  point = read_point(result, "a", choices=path)
  assert point.bytes_per_token == 4.2
  assert point.scores["cloze_accuracy"] == pytest.approx(0.2)
  assert point.errors["cloze_accuracy"] == pytest.approx(0.04)
  assert (point.scores["cloze_nats"], point.errors["cloze_nats"]) == (12.5, 0.5)
  for change, message in (
    ({"step": 50}, "is of step 50, and the point was scored at step 100"),
    ({"chance": None}, "has no chance; expected a result of launch.choose"),
  ):
    changed = {k: v for k, v in (found | change).items() if v is not None}
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message):
      read_point(result, "a", choices=path)


@pytest.mark.parametrize(
  ("kind", "changes", "message"),
  [
    ("autoencoder", {}, "predicts nothing"),
    ("token", {"brier_1": None}, "holds none of"),
    ("token", {"config": {"model": 1}}, "the config is foreign"),
    ("token", {"brier_1": float("nan")}, "holds NaN"),
    ("token", {"step": None}, "r.json: step is None, not a training step"),
    ("token", {"bytes_per_token": "a"}, "r.json: bytes_per_token is 'a'"),
  ],
)
def test_foreign_results_are_refused(tmp_path, kind, changes, message):
  path = _write(tmp_path / "r.json", kind, **changes)
  with pytest.raises(ValueError, match=message) as error:
    read_point(path, "a")
  assert "\n" not in str(error.value)


def test_unfinished_result_is_refused(tmp_path):
  path = tmp_path / "r.json"
  path.write_text('{"brier_1": 0.2}')
  with pytest.raises(ValueError, match="has no config, step, seed"):
    read_point(path, "a")
