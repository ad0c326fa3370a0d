"""One training run: a model, its data, its optimizer, and where it runs."""

import dataclasses
from typing import Any

from calm_jax.config.data import DataConfig
from calm_jax.config.fields import (
  DTYPES,
  added,
  check_choice,
  check_not_negative,
  check_positive,
  check_range,
  config_class,
  rebuild,
)
from calm_jax.config.model import (
  AutoencoderConfig,
  ModelConfig,
  TokenModelConfig,
)
from calm_jax.config.optimizer import OptimizerConfig
from calm_jax.config.vocabulary import VocabularyConfig

CHOSEN = -1  # a size that follows from devices, model and batch


@config_class
class MeshConfig:
  """Sizes of the four mesh axes; their product is the number of devices.

  −1: chosen for the devices there are, see `training/layout.py`.
  """

  data: int = CHOSEN  # copies of the parameters
  fsdp: int = CHOSEN  # parameters split along their widest axis
  tensor: int = CHOSEN  # heads and feed-forward columns split
  sequence: int = CHOSEN  # chunks of a row split

  def __post_init__(self):
    for field in dataclasses.fields(self):
      _check_size(self, field.name)


@config_class
class ExperimentConfig:
  """One training run, of whichever model `model` describes."""

  model: ModelConfig = None  # has to be given
  autoencoder: AutoencoderConfig | None = None  # filled from autoencoder_run
  autoencoder_run: str = ""  # next_vector: run directory of the autoencoder
  # filled from data.teacher_run
  teacher: TokenModelConfig | None = added(None, absent=None, is_of_model=False)
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  optimizer: OptimizerConfig = dataclasses.field(
    default_factory=OptimizerConfig
  )
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
  num_steps: int = 1000
  # parts of a batch, one after another; −1: chosen as the mesh is
  num_microbatches: int = CHOSEN
  # float32 | bfloat16: in which gradients are added up over devices and
  # microbatches; bfloat16 moves half the bytes and rounds before
  gradient_reduce_dtype: str = added(
    "float32", absent="float32", is_of_model=False
  )
  # so many in a row without a finite loss and gradient end the run
  max_skipped_steps: int = added(10, absent=10, is_of_model=False)
  seed: int = 0  # of parameters and noise
  log_interval: int = 10  # steps
  save_interval: int = 1000  # steps
  eval_interval: int = 0  # steps; 0: never
  num_eval_rows: int = 64  # held-out rows of which the loss is taken
  # held-out rows that are scored as `launch.evaluate` does; 0: none
  num_scored_rows: int = added(0, absent=0, is_of_model=False)
  max_checkpoints: int = 3  # newest kept
  keep_interval: int = 0  # steps kept for good; 0: none

  def __post_init__(self):
    check_positive(
      self,
      "num_steps",
      "max_skipped_steps",
      "log_interval",
      "save_interval",
      "num_eval_rows",
      "max_checkpoints",
    )
    check_not_negative(
      self, "eval_interval", "num_scored_rows", "keep_interval"
    )
    for name in ("num_steps", "log_interval"):
      check_range(self, name, 1, 2**31 - 1)  # counted in int32 on the device
    _check_size(self, "num_microbatches")
    check_choice(self, "gradient_reduce_dtype", DTYPES)
    if not isinstance(self.model, ModelConfig):
      choices = [kind.__name__ for kind in ModelConfig.kinds.values()]
      raise ValueError(
        f"model is {self.model!r}; it should be of {', '.join(choices)}."
      )
    chunk_size, row_length = self.model.chunk_size, self.data.row_length
    if row_length % chunk_size:
      low = row_length - row_length % chunk_size
      raise ValueError(
        f"row length {row_length} is not a multiple of chunk_size"
        f" {chunk_size}; the nearest are {low} and {low + chunk_size}."
      )
    if row_length == chunk_size and self.model.predicts:
      raise ValueError(
        f"row length {row_length} is a single chunk, which predicts nothing;"
        f" give {2 * chunk_size} or more."
      )
    if self.data.batch_size % self.num_microbatches:
      raise ValueError(
        f"batch_size {self.data.batch_size} is not a multiple of"
        f" num_microbatches {self.num_microbatches}."
      )

  @property
  def num_chunks(self) -> int:
    """L, chunks a row."""
    return self.data.row_length // self.model.chunk_size

  def is_logged(self, step: Any) -> Any:
    """Whether the steps up to this one make a row; a number or an array."""
    return (step % self.log_interval == 0) | (step == self.num_steps)

  @property
  def closing_id(self) -> int | None:
    """The end id after which the tokens of a chunk count as end ids, too."""
    return self.model.vocabulary.end_id if self.data.close_chunks else None


def resolve(
  config: ExperimentConfig,
  *,
  vocabulary: VocabularyConfig,
  autoencoder: AutoencoderConfig | None = None,
  teacher: TokenModelConfig | None = None,
) -> ExperimentConfig:
  """Fills what was left None and runs every check on the final values.

  Args:
    config: as the experiment file and the flags left it.
    vocabulary: that of the prepared data's tokenizer.
    autoencoder: that of `config.autoencoder_run`; None for other models.
    teacher: that of `config.data.teacher_run`, if it names one.

  Returns:
    A new config; `config` is left alone.

  Raises:
    ValueError: if a value is impossible, or two of them do not fit.
  """
  config = rebuild(config)
  config.model.fill(vocabulary, autoencoder)
  if config.model.needs_autoencoder:
    config.autoencoder = rebuild(autoencoder)
  config.teacher = rebuild(teacher) if teacher is not None else None
  return rebuild(config)


def _check_size(config: MeshConfig | ExperimentConfig, name: str) -> None:
  size = getattr(config, name)
  if size != CHOSEN and size < 1:
    raise ValueError(
      f"{name} is {size}; it is positive, or {CHOSEN} to have it chosen."
    )
