"""Typed configs and their checks; knows no other file of the package.

Letters, the same everywhere: B rows · T tokens a row · K tokens a chunk ·
L = T/K chunks · V vocabulary · E autoencoder width · D backbone width ·
F feed-forward width · H query heads · G key/value heads · Z latent size ·
N model samples · M target samples · U noise size.

The dataclasses are mutable because command-line flags set their fields one by
one; `resolve` then fills what was left `None` from the data and the
autoencoder, and builds everything anew so that every check runs on the final
values. Models take resolved configs only.

No `from __future__ import annotations` here: the flags read the annotations as
types.
"""

import dataclasses
import math
import typing
from typing import Any, ClassVar

FORMAT_VERSION = 1  # of config.json; a run of another version is refused

DTYPES = ("float32", "bfloat16")
IMPLEMENTATIONS = ("auto", "reference", "xla", "pallas")

_dataclass = dataclasses.dataclass(kw_only=True, unsafe_hash=True)


@_dataclass
class VocabularyConfig:
  """The token ids a model knows. Ids 0 … size−1 are the tokenizer's."""

  size: int  # V, what is scored
  begin_id: int  # stands before each document
  end_id: int  # stands after each document; also fills chunks
  mask_id: int | None = None  # replaces dropped input tokens; None: the id V
  # Ids below V that are never predicted: out of argmax and cross-entropy.
  unscored_ids: tuple[int, ...] = ()

  def __post_init__(self):
    _check_positive(self, "size")
    if self.mask_id is None:
      self.mask_id = self.size
    _check_not_negative(self, "mask_id")
    for name in ("begin_id", "end_id"):
      _check_range(self, name, 0, self.size - 1)
    for i in self.unscored_ids:
      if not 0 <= i < self.size or i == self.end_id:
        raise ValueError(
          f"unscored_ids holds {i}; these are ids from 0 to {self.size - 1}"
          f" without the end id {self.end_id}."
        )

  @property
  def padded_size(self) -> int:
    """What is stored and sharded: the next multiple of 128 with the mask id."""
    return _round_up(max(self.size, self.mask_id + 1), 128)


@_dataclass
class AutoencoderConfig:
  """K tokens to one Gaussian latent and back (paper §2)."""

  kind: ClassVar[str] = "autoencoder"
  vocabulary: VocabularyConfig | None = None  # None: that of the data
  chunk_size: int = 4  # K, tokens
  latent_size: int | None = None  # Z; None: 32·K
  hidden_size: int = 512  # E
  ffn_size: int = 1280  # F_ae
  num_encoder_layers: int = 2  # first half at token level, rest at chunk level
  num_decoder_layers: int = 2  # first half at chunk level, rest at token level
  norm_epsilon: float = 1e-6
  token_mask_rate: float = 0.15  # training only
  latent_dropout_rate: float = 0.15  # training only
  kl_weight: float = 1e-3  # β_KL
  kl_floor: float = 0.5  # λ_KL, nats per chunk and dimension
  init_std: float = 0.02  # of Linear and embedding parameters
  dtype: str = "float32"  # of the residual stream and matrix products
  vocabulary_implementation: str = "auto"  # cross-entropy and argmax over V

  def __post_init__(self):
    _check_positive(
      self,
      "chunk_size",
      "hidden_size",
      "ffn_size",
      "num_encoder_layers",
      "num_decoder_layers",
      "norm_epsilon",
      "init_std",
    )
    _check_not_negative(self, "kl_weight", "kl_floor")
    for name in ("num_encoder_layers", "num_decoder_layers"):
      if getattr(self, name) % 2:
        raise ValueError(
          f"{name} is {getattr(self, name)}; half of the layers work on tokens"
          " and half on chunks, so give an even number."
        )
    if self.latent_size is not None:
      _check_positive(self, "latent_size")
    _check_range(self, "token_mask_rate", 0, 0.99)
    _check_range(self, "latent_dropout_rate", 0, 0.99)
    _check_choice(self, "dtype", DTYPES)
    _check_choice(self, "vocabulary_implementation", IMPLEMENTATIONS)


@_dataclass
class EnergyHeadConfig:
  """One-step head trained with the energy score (paper §3.2, eq. 9, 10)."""

  kind: ClassVar[str] = "energy"
  num_mlp_layers: int = 2  # head blocks
  noise_size: int = 64  # U
  num_samples: int = 8  # N, model samples a position
  num_targets: int = 100  # M, draws from the posterior a position
  alpha: float = 1.0  # exponent of the distance, in (0, 2)
  use_antithetic_targets: bool = False  # targets in pairs mean ± std·ε
  implementation: str = "auto"  # of the energy score

  def __post_init__(self):
    _check_positive(self, "num_mlp_layers", "noise_size", "num_targets")
    if self.num_samples < 2:
      raise ValueError(
        f"num_samples is {self.num_samples}; the energy score compares model"
        " samples with each other and needs at least 2."
      )
    if not 0 < self.alpha < 2:
      raise ValueError(
        f"alpha is {self.alpha}; the energy score is strictly proper only for"
        " 0 < alpha < 2. The paper uses 1."
      )
    if self.use_antithetic_targets and self.num_targets % 2:
      raise ValueError(
        f"num_targets is {self.num_targets}; antithetic targets come in pairs,"
        " so give an even number."
      )
    _check_choice(self, "implementation", IMPLEMENTATIONS)


@_dataclass
class DiffusionHeadConfig:
  """Denoising diffusion head, the paper's comparison (§7.4)."""

  kind: ClassVar[str] = "diffusion"
  num_mlp_layers: int = 2
  num_samples: int = 4  # N, targets drawn a position
  num_sampling_steps: int = 100  # of the 1000 training steps

  def __post_init__(self):
    _check_positive(self, "num_mlp_layers", "num_samples")
    _check_range(self, "num_sampling_steps", 1, 1000)


@_dataclass
class FlowHeadConfig:
  """Flow-matching head, the paper's comparison (§7.4)."""

  kind: ClassVar[str] = "flow"
  num_mlp_layers: int = 2
  num_samples: int = 4  # N, targets drawn a position
  num_sampling_steps: int = 10
  solver: str = "midpoint"  # midpoint: two evaluations a step; euler: one

  def __post_init__(self):
    _check_positive(self, "num_mlp_layers", "num_samples", "num_sampling_steps")
    _check_choice(self, "solver", ("midpoint", "euler"))


HeadConfig = EnergyHeadConfig | DiffusionHeadConfig | FlowHeadConfig


@_dataclass
class BackboneConfig:
  """The Llama-like transformer that both model families share (paper §3.1)."""

  # None: that of the data, or of the autoencoder where there is one.
  vocabulary: VocabularyConfig | None = None
  hidden_size: int = 768  # D
  ffn_size: int = 2048  # F
  num_layers: int = 12
  num_heads: int = 16  # H
  num_kv_heads: int | None = None  # G, divides H; None: H
  rope_theta: float = 10_000.0
  norm_epsilon: float = 1e-6
  use_segment_mask: bool = False  # attention stays inside a document
  init_std: float = 0.02  # of Linear and embedding parameters
  dtype: str = "float32"  # of the residual stream and matrix products
  remat: str = "none"  # none | dots | full: what the backward pass recomputes
  attention_implementation: str = "auto"

  def __post_init__(self):
    _check_positive(
      self,
      "hidden_size",
      "ffn_size",
      "num_layers",
      "num_heads",
      "rope_theta",
      "norm_epsilon",
      "init_std",
    )
    _check_divides(self, "num_heads", "hidden_size")
    if (self.hidden_size // self.num_heads) % 2:
      raise ValueError(
        f"hidden_size {self.hidden_size} over num_heads {self.num_heads} gives"
        " an odd head width; rotary embeddings need an even one."
      )
    if self.num_kv_heads is not None:
      _check_positive(self, "num_kv_heads")
      _check_divides(self, "num_kv_heads", "num_heads")
    _check_choice(self, "dtype", DTYPES)
    _check_choice(self, "remat", ("none", "dots", "full"))
    _check_choice(self, "attention_implementation", IMPLEMENTATIONS)

  @property
  def head_size(self) -> int:
    return self.hidden_size // self.num_heads


@_dataclass
class NextVectorConfig(BackboneConfig):
  """The model that predicts the latent of the next chunk (paper §3)."""

  kind: ClassVar[str] = "next_vector"
  chunk_size: int = 4  # K, that of the autoencoder
  latent_size: int | None = None  # Z; None: that of the autoencoder
  inputs: str = "tokens"  # tokens | latent | both
  head: HeadConfig = dataclasses.field(default_factory=EnergyHeadConfig)

  def __post_init__(self):
    super().__post_init__()
    _check_positive(self, "chunk_size")
    if self.latent_size is not None:
      _check_positive(self, "latent_size")
    _check_choice(self, "inputs", ("tokens", "latent", "both"))


@_dataclass
class TokenModelConfig(BackboneConfig):
  """The same backbone as an ordinary token model, the baseline (§7.1)."""

  kind: ClassVar[str] = "token"
  vocabulary_implementation: str = "auto"  # cross-entropy over V

  def __post_init__(self):
    super().__post_init__()
    _check_choice(self, "vocabulary_implementation", IMPLEMENTATIONS)

  @property
  def chunk_size(self) -> int:
    return 1


ModelConfig = AutoencoderConfig | NextVectorConfig | TokenModelConfig


@_dataclass
class SourceConfig:
  """One prepared directory of a mixture."""

  path: str  # written by launch.prepare
  name: str = ""  # for metrics; empty: the directory's name
  weight: float = 1.0  # share of the rows, relative to the other sources
  num_epochs: int | None = None  # passes over it, then it ends; None: no end

  def __post_init__(self):
    if not 0 < self.weight < math.inf:
      raise ValueError(
        f"source {self.path!r} has weight {self.weight}; weights are positive."
      )
    if self.num_epochs is not None:
      _check_positive(self, "num_epochs")


@_dataclass
class DataConfig:
  """Rows of tokens: what they are cut from and how they are ordered."""

  path: str = ""  # a directory written by launch.prepare; or give `sources`
  sources: tuple[SourceConfig, ...] = ()  # a weighted mixture instead of `path`
  row_length: int = 2048  # T, tokens; a multiple of K
  batch_size: int = 8  # B, rows of the global batch
  use_random_fill: bool = True  # 0 … K−1 end ids in front of each training row
  seed: int = 0  # of the order of the rows and of the fill
  num_prefetch_batches: int = 4

  def __post_init__(self):
    _check_positive(self, "row_length", "batch_size")
    _check_not_negative(self, "num_prefetch_batches")
    if self.path and self.sources:
      raise ValueError(
        f"data.path is {self.path!r} and data.sources names"
        f" {len(self.sources)} more; give one of the two."
      )

  def all_sources(self) -> tuple[SourceConfig, ...]:
    return self.sources or (SourceConfig(path=self.path),)


@_dataclass
class OptimizerConfig:
  """AdamW with clipping; no weight decay on norms and biases."""

  learning_rate: float = 3e-4  # the peak
  schedule: str = "constant"  # constant | cosine | wsd, after the warm-up
  num_warmup_steps: int = 1000
  decay_fraction: float = 0.2  # wsd: share of the steps that decay, at the end
  final_fraction: float = 0.0  # cosine, wsd: last learning rate over the peak
  b1: float = 0.9
  b2: float = 0.95
  epsilon: float = 1e-8
  weight_decay: float = 0.1
  clip_norm: float = 1.0

  def __post_init__(self):
    _check_positive(self, "learning_rate", "clip_norm", "epsilon")
    _check_not_negative(self, "num_warmup_steps", "weight_decay")
    _check_choice(self, "schedule", ("constant", "cosine", "wsd"))
    _check_range(self, "decay_fraction", 0, 1)
    _check_range(self, "final_fraction", 0, 1)


@_dataclass
class MeshConfig:
  """Sizes of the four mesh axes; their product is the number of devices."""

  data: int = -1  # copies of the parameters; −1: all devices that are left
  fsdp: int = 1  # parameters split along their widest axis
  tensor: int = 1  # heads and feed-forward columns split
  sequence: int = 1  # chunks of a row split

  def __post_init__(self):
    _check_positive(self, "fsdp", "tensor", "sequence")
    if self.data != -1:
      _check_positive(self, "data")


@_dataclass
class ExperimentConfig:
  """One training run, of whichever model `model` describes."""

  model: ModelConfig = None  # has to be given
  autoencoder: AutoencoderConfig | None = None  # filled from autoencoder_run
  autoencoder_run: str = ""  # next_vector: run directory of the autoencoder
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  optimizer: OptimizerConfig = dataclasses.field(
    default_factory=OptimizerConfig
  )
  mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
  num_steps: int = 1000
  num_microbatches: int = 1  # parts of a batch, one after another
  seed: int = 0  # of parameters and noise
  log_interval: int = 10  # steps
  save_interval: int = 1000  # steps
  eval_interval: int = 0  # steps; 0: never
  num_eval_rows: int = 64
  max_checkpoints: int = 3  # newest kept
  keep_interval: int = 0  # steps kept for good; 0: none

  def __post_init__(self):
    _check_positive(
      self,
      "num_steps",
      "num_microbatches",
      "log_interval",
      "save_interval",
      "num_eval_rows",
      "max_checkpoints",
    )
    _check_not_negative(self, "eval_interval", "keep_interval")
    if not isinstance(self.model, ModelConfig):
      choices = [kind.__name__ for kind in typing.get_args(ModelConfig)]
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
    if row_length == chunk_size and self.model.kind != "autoencoder":
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


def resolve(
  config: ExperimentConfig,
  *,
  vocabulary: VocabularyConfig,
  autoencoder: AutoencoderConfig | None = None,
) -> ExperimentConfig:
  """Fills what was left None and runs every check on the final values.

  Args:
    config: as the experiment file and the flags left it.
    vocabulary: that of the prepared data's tokenizer.
    autoencoder: that of `config.autoencoder_run`; None for other models.

  Returns:
    A new config; `config` is left alone.

  Raises:
    ValueError: if a value is impossible, or two of them do not fit.
  """
  config = rebuild(config)
  model = config.model
  if isinstance(model, AutoencoderConfig) and model.latent_size is None:
    model.latent_size = 32 * model.chunk_size
  if isinstance(model, NextVectorConfig):
    if autoencoder is None:
      raise ValueError(
        "a next-vector model needs a trained autoencoder; give its run"
        " directory as --config.autoencoder_run=DIR."
      )
    config.autoencoder = rebuild(autoencoder)
    if model.latent_size is None:
      model.latent_size = autoencoder.latent_size
    _check_same_ids(vocabulary, autoencoder.vocabulary)
    # Converted weights mask with another id than a tokenizer of ours would.
    vocabulary = autoencoder.vocabulary
  if model.vocabulary is None:
    model.vocabulary = vocabulary
  if isinstance(model, NextVectorConfig):
    check_fit(model, autoencoder)
  return rebuild(config)


def check_fit(model: NextVectorConfig, autoencoder: AutoencoderConfig) -> None:
  """Raises ValueError unless the autoencoder serves the model."""
  for name in ("chunk_size", "latent_size", "vocabulary"):
    wanted, found = getattr(model, name), getattr(autoencoder, name)
    if wanted != found:
      raise ValueError(
        f"the model has {name} {wanted} and its autoencoder {found};"
        " train an autoencoder that fits or change the model."
      )


def _check_same_ids(
  data: VocabularyConfig, autoencoder: VocabularyConfig
) -> None:
  for name in ("size", "begin_id", "end_id"):
    found, wanted = getattr(data, name), getattr(autoencoder, name)
    if found != wanted:
      raise ValueError(
        f"the data's vocabulary has {name} {found} and the autoencoder's"
        f" {wanted}; prepare the data with the autoencoder's tokenizer."
      )


def rebuild(config: Any) -> Any:
  """Builds a config anew from its fields, so that its checks run again."""
  if dataclasses.is_dataclass(config):
    return type(config)(
      **{
        field.name: rebuild(getattr(config, field.name))
        for field in dataclasses.fields(config)
      }
    )
  if isinstance(config, tuple | list):
    return tuple(rebuild(item) for item in config)
  return config


def parse_argument(argument: str | None, **defaults: Any) -> dict[str, Any]:
  """Reads the part after the colon of `--config=file.py:tiny,head=energy`.

  Args:
    argument: comma-separated; a word without `=` names the `size`.
    **defaults: the names that may be given, with their default values, whose
      types the given values take, or with a tuple of the words to choose from,
      the default first.

  Returns:
    The defaults, overridden.

  Raises:
    ValueError: for a name or a word that may not be given.
  """
  result = {
    name: value[0] if isinstance(value, tuple) else value
    for name, value in defaults.items()
  }
  for word in filter(None, (argument or "").split(",")):
    name, value = word.split("=", 1) if "=" in word else ("size", word)
    if name not in defaults:
      known = ", ".join(f"{key}={value}" for key, value in result.items())
      raise ValueError(
        f"config argument {word!r} is not known; this experiment takes {known}."
      )
    choices = defaults[name]
    if isinstance(choices, tuple) and value not in choices:
      raise ValueError(
        f"config argument {word!r}: {name} is one of {', '.join(choices)}."
      )
    kind = type(result[name])
    try:
      result[name] = kind(value)
    except ValueError:
      raise ValueError(
        f"config argument {word!r} should be of type {kind.__name__}."
      ) from None
  return result


def _check_positive(config: Any, *names: str) -> None:
  for name in names:
    if not 0 < getattr(config, name) < math.inf:
      raise ValueError(f"{name} is {getattr(config, name)}; it is positive.")


def _check_not_negative(config: Any, *names: str) -> None:
  for name in names:
    if not 0 <= getattr(config, name) < math.inf:
      raise ValueError(f"{name} is {getattr(config, name)}; it is 0 or more.")


def _check_choice(config: Any, name: str, choices: tuple[str, ...]) -> None:
  if getattr(config, name) not in choices:
    raise ValueError(
      f"{name} is {getattr(config, name)!r}; choose one of"
      f" {', '.join(choices)}."
    )


def _check_range(config: Any, name: str, low: float, high: float) -> None:
  if not low <= getattr(config, name) <= high:
    raise ValueError(
      f"{name} is {getattr(config, name)}; it lies between {low} and {high}."
    )


def _check_divides(config: Any, part: str, whole: str) -> None:
  if getattr(config, whole) % getattr(config, part):
    raise ValueError(
      f"{whole} {getattr(config, whole)} is not a multiple of {part}"
      f" {getattr(config, part)}."
    )


def _round_up(number: int, multiple: int) -> int:
  return -(-number // multiple) * multiple
