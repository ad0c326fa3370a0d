"""A result file of launch.evaluate as a point of a scaling study."""

import os
import pathlib
from typing import Any

from calm_jax import config_file
from calm_jax.config import ExperimentConfig
from calm_jax.scaling import flops
from calm_jax.scaling.points import SCORES, Point
from calm_jax.scaling.study import read_json

_OF_CHOICES = ("accuracy", "chance", "log_score", "step", "task_hash")
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
    bytes_per_token=float(result.get("bytes_per_token") or 0.0),
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
  if found["step"] != result["step"]:
    raise ValueError(
      f"{path} is of step {found['step']}, and the point was scored at step"
      f" {result['step']}; answer the questions again."
    )
  chance = found["chance"]
  above = lambda value: value / (1 - chance)
  errors = [found.get(f"{key}_stderr") for key in ("accuracy", "log_score")]
  return {
    "cloze_accuracy": (
      above(found["accuracy"] - chance),
      None if errors[0] is None else above(errors[0]),
    ),
    "cloze_nats": (-found["log_score"], errors[1]),
  }


def _read(path: str | os.PathLike) -> tuple[dict[str, Any], ExperimentConfig]:
  """A result, and the config in it."""
  result = read_json(pathlib.Path(path))
  missing = [key for key in ("config", "step", "seed") if key not in result]
  if missing:
    raise ValueError(
      f"{path} has no {', '.join(missing)}; expected a result of"
      " launch.evaluate."
    )
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
