"""A result file of launch.evaluate as a point of a scaling study."""

import os
import pathlib
from typing import Any

from calm_jax import config_file
from calm_jax.config import ExperimentConfig
from calm_jax.scaling import flops
from calm_jax.scaling.points import SCORES, Point
from calm_jax.scaling.study import read_json

_OF_CHOICES = ("accuracy", "chance", "estimates", "step", "task_hash")
_SAMPLED = 0.5  # the temperature of `Point.inference_flops_sampled`


def read_point(
  path: str | os.PathLike,
  name: str,
  *,
  autoencoder: str | os.PathLike | None = None,
  choices: str | os.PathLike | None = None,
  convention: flops.Convention = "executed",
) -> Point:
  """Reads the scores, and counts the cost from the config beside them.

  Training costs that of the steps that were scored.

  Args:
    path: a result of a next-vector or token model.
    name: of the point.
    autoencoder: the result of the frozen one, whose training costs, too.
    choices: a result of launch.choose for the same run, whose cloze accuracy
      and likelihood are further scores; None: none.
    convention: of the FLOPs; "executed" is the fair one for small models,
      whose vocabulary and loss weigh more than the paper's count knows.

  Returns:
    The point; a score that is not resolved is left out.

  Raises:
    OSError: if the file cannot be read.
    ValueError: if it is damaged, of another kind, or holds no score.
  """
  result, config = _read(path)
  if not config.model.predicts:
    raise ValueError(
      f"{path} is the result of an autoencoder, which predicts nothing; give"
      " that of a next-vector or token model."
    )
  scores, errors = {}, {}
  for score in SCORES:
    if isinstance(result.get(score), int | float):
      scores[score] = float(result[score])
    if isinstance(result.get(f"{score}_stderr"), int | float):
      errors[score] = float(result[f"{score}_stderr"])
  if not scores:
    raise ValueError(
      f"{path} holds none of {', '.join(SCORES)}; evaluate the run again."
    )
  if choices is not None:
    for score, (value, error) in _choice_scores(choices, result).items():
      scores[score] = value
      if error is not None:
        errors[score] = error
  cost = {
    "num_positions": config.num_chunks,
    "autoencoder": config.autoencoder,
    "convention": convention,
  }
  model = config.model
  tokens = result["step"] * config.data.batch_size * config.data.row_length

  def inference_flops(temperature: float) -> float:
    return sum(
      flops.inference_flops_per_token(
        model, temperature=temperature, **cost
      ).values()
    )

  parts = flops.num_parameters(model)
  frozen = (
    flops.num_parameters(config.autoencoder) if config.autoencoder else {}
  )
  return Point(
    name=name,
    family=model.label,
    parameters=float(sum(parts.values())),
    tokens=float(tokens),
    chunk_size=model.chunk_size,
    seed=config.seed,
    bytes_per_token=_number_if_any(path, result, "bytes_per_token") or 0.0,
    backbone_parameters=float(parts.get("backbone", 0)),
    autoencoder_parameters=float(sum(frozen.values())),
    training_flops=_training_flops(result, config, convention),
    autoencoder_flops=0.0
    if autoencoder is None
    else _training_flops(*_read(autoencoder), convention),
    inference_flops=inference_flops(1.0),
    inference_flops_sampled=inference_flops(_SAMPLED),
    scores=scores,
    errors=errors,
  )


def _choice_scores(
  path: str | os.PathLike, result: dict[str, Any]
) -> dict[str, tuple[float, float | None]]:
  """Cloze accuracy above chance and −log p̂ of the answer, with errors."""
  found = read_json(pathlib.Path(path))
  missing = [key for key in _OF_CHOICES if key not in found]
  if missing:
    raise ValueError(
      f"{path} has no {', '.join(missing)}; expected a result of launch.choose."
    )
  if not isinstance(found["estimates"], dict):
    raise ValueError(f"{path}: estimates is no JSON object; score again.")
  if _step(path, found) != result["step"]:
    raise ValueError(
      f"{path} is of step {found['step']}, and the point was scored at step"
      f" {result['step']}; answer the questions again."
    )
  chance = _number(path, found, "chance")
  if not 0 <= chance < 1:
    raise ValueError(
      f"{path} has chance {chance:g}, which leaves no accuracy above it;"
      " questions of a sweep have at least two candidates."
    )
  error = _number_if_any(path, found, "accuracy_stderr")
  # Of a CALM, and of a token model. The accuracy is that of the estimate asked
  # for; the nats are not, because that may be one without a unit.
  estimates = found["estimates"]
  name = "kernel" if "kernel" in estimates else "exact"
  place, nats = f"{path}: estimates.{name}", estimates.get(name)
  if not isinstance(nats, dict):
    raise ValueError(f"{place} is {nats!r}, not an object; score again.")
  return {
    "cloze_accuracy": (
      (_number(path, found, "accuracy") - chance) / (1 - chance),
      None if error is None else error / (1 - chance),
    ),
    "cloze_nats": (
      -_number(place, nats, "log_score"),
      _number_if_any(place, nats, "log_score_stderr"),
    ),
  }


def _number(
  place: str | os.PathLike, values: dict[str, Any], name: str
) -> float:
  value = values.get(name)
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise ValueError(
      f"{place}: {name} is {value!r}, not a number; score again."
    )
  return float(value)


def _number_if_any(
  place: str | os.PathLike, values: dict[str, Any], name: str
) -> float | None:
  return None if values.get(name) is None else _number(place, values, name)


def _step(path: str | os.PathLike, result: dict[str, Any]) -> int:
  step = result["step"]
  if type(step) is not int or step < 0:
    raise ValueError(
      f"{path}: step is {step!r}, not a training step; score again."
    )
  return step


def _read(path: str | os.PathLike) -> tuple[dict[str, Any], ExperimentConfig]:
  """A result, and the config in it."""
  result = read_json(pathlib.Path(path))
  missing = [key for key in ("config", "step", "seed") if key not in result]
  if missing:
    raise ValueError(
      f"{path} has no {', '.join(missing)}; expected a result of"
      " launch.evaluate."
    )
  _step(path, result)
  try:
    return result, config_file.from_dict(ExperimentConfig, result["config"])
  except ValueError as error:
    raise ValueError(f"{path}: the config is foreign: {error}") from None


def _training_flops(
  result: dict[str, Any],
  config: ExperimentConfig,
  convention: flops.Convention,
) -> float:
  return flops.training_flops(
    config, num_steps=result["step"], convention=convention
  )
