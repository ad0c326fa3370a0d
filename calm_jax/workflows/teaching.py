"""A token model's run as teacher of a new run; see `training/teacher.py`."""

from typing import NamedTuple

from jax.sharding import Mesh

from calm_jax.checkpoint.checksum import checksums
from calm_jax.checkpoint.run_directory import RunDirectory, load_run
from calm_jax.config import ExperimentConfig, TokenModelConfig
from calm_jax.data.tokenizer import Tokenizer, load_tokenizer
from calm_jax.data.tokenizer_base import check_same_tokenizer, hash_parts
from calm_jax.training import processes, sharding
from calm_jax.training.teacher import Teacher


class Found(NamedTuple):
  """What of a teacher is known before its parameters are read."""

  model: TokenModelConfig  # resolved
  step: int


def find_teacher(
  config: ExperimentConfig, run: RunDirectory | None, tokenizer: Tokenizer
) -> Found | None:
  """The model and step of `config.data.teacher_run`.

  All processes call this together. Nothing is written.

  Args:
    config: of the run that is taught.
    run: its directory, if it has been started: the step stays what it was.
    tokenizer: that of its data.

  Returns:
    What was found; None if no teacher is named.

  Raises:
    OSError: if there is no such run.
    ValueError: if it cannot teach the model.
  """
  path = config.data.teacher_run
  if not path:
    return None
  if not config.model.needs_autoencoder:
    raise ValueError(
      f"data.teacher_run is {path}, and a model of kind {config.model.kind!r}"
      " is not taught; leave it out, or train a next-vector model."
    )
  source = RunDirectory(path)
  try:
    saved = source.read_config()
    found = load_tokenizer(source.tokenizer)
    wanted = config.data.teacher_step
    if wanted is None and run is not None:
      wanted = run.read_config().data.teacher_step
    step = processes.first_finds(lambda: source.find_step(wanted))
  except (OSError, ValueError) as error:
    raise type(error)(f"data.teacher_run={path}: {error}") from error
  if not isinstance(saved.model, TokenModelConfig):
    raise ValueError(
      f"data.teacher_run={path} holds a model of kind {saved.model.kind!r};"
      " give the run of a token model."
    )
  check_same_tokenizer("the teacher", path, found, tokenizer)
  if saved.data.row_length < config.data.row_length:
    raise ValueError(
      f"the teacher in {path} was trained on rows of {saved.data.row_length}"
      f" tokens, and data.row_length is {config.data.row_length}; give at most"
      " as many."
    )
  return Found(saved.model, step)


def load_teacher(config: ExperimentConfig, mesh: Mesh) -> tuple[Teacher, str]:
  """Reads the teacher's parameters; all processes call this together.

  Args:
    config: resolved, with the teacher and its step.
    mesh: of the run that is taught.

  Returns:
    The teacher, and a hash of its parameters.

  Raises:
    OSError, ValueError: if they cannot be read, or split over the mesh.
  """
  data = config.data
  try:
    sharding.check_model_fits(config.teacher, mesh)
  except ValueError as error:
    raise ValueError(f"the teacher in {data.teacher_run}: {error}") from error
  params = load_run(
    data.teacher_run, data.teacher_step, mesh, is_rounded=True
  ).params
  sums = (f"{name} {it}".encode() for name, it in checksums(params).items())
  return Teacher(config, params, mesh), hash_parts(*sums)
