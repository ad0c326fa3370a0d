"""A token model's run as teacher of a new run; see `training/teacher.py`."""

from jax.sharding import Mesh

from calm_jax.checkpoint.checksum import checksums
from calm_jax.checkpoint.run_directory import RunDirectory, load_run
from calm_jax.config import ExperimentConfig, TokenModelConfig
from calm_jax.data.tokenizer import Tokenizer, load_tokenizer
from calm_jax.data.tokenizer_base import hash_parts
from calm_jax.training.teacher import Teacher


def find_teacher(
  config: ExperimentConfig, tokenizer: Tokenizer
) -> TokenModelConfig | None:
  """The model of `config.data.teacher_run`, before anything is read or written.

  Args:
    config: of the run that is taught.
    tokenizer: that of its data.

  Returns:
    A resolved config; None if no teacher is named.

  Raises:
    OSError: if there is no such run.
    ValueError: if it cannot teach the model.
  """
  path = config.data.teacher_run
  if not path:
    return None
  if not config.model.needs_autoencoder:
    raise ValueError(
      f"data.teacher_run is {path}, and a {config.model.kind} model is not"
      " taught; leave it out, or train a next-vector model."
    )
  run = RunDirectory(path)
  saved = run.read_config()
  if not isinstance(saved.model, TokenModelConfig):
    raise ValueError(
      f"data.teacher_run {path} is the run of a {saved.model.kind} model; give"
      " that of a token model."
    )
  if load_tokenizer(run.tokenizer).content_hash != tokenizer.content_hash:
    raise ValueError(
      f"the teacher in {path} was trained with another tokenizer than that of"
      " the data; prepare the data with its tokenizer:"
      f" --tokenizer={path}/tokenizer."
    )
  if saved.data.row_length < config.data.row_length:
    raise ValueError(
      f"the teacher in {path} was trained on rows of {saved.data.row_length}"
      f" tokens, and data.row_length is {config.data.row_length}; give at most"
      " as many."
    )
  return saved.model


def load_teacher(config: ExperimentConfig, mesh: Mesh) -> tuple[Teacher, str]:
  """Reads the newest step of the teacher; all processes call this together.

  Args:
    config: resolved.
    mesh: of the run that is taught.

  Returns:
    The teacher, and a hash of its parameters.
  """
  params = load_run(config.data.teacher_run, mesh=mesh, is_rounded=True).params
  sums = (f"{name} {it}".encode() for name, it in checksums(params).items())
  return Teacher(config, params, mesh), hash_parts(*sums)
