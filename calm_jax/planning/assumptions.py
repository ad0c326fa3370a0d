"""What a config leaves to the data and to other runs, for want of them."""

import math

from calm_jax.config import (
  AutoencoderConfig,
  ExperimentConfig,
  MeshConfig,
  VocabularyConfig,
  resolve,
)
from calm_jax.training.sharding import MESH_AXES

# Split in more parts than this, the parameters' last axis gets so narrow that
# the compiler gathers by sums of padded arrays, at twice the traffic.
_MAX_FSDP = 16


def complete(config: ExperimentConfig, vocab_size: int) -> ExperimentConfig:
  """Resolves a config without data and without a trained autoencoder.

  Args:
    config: as the experiment file and the flags left it.
    vocab_size: V, where the config names no vocabulary.

  Returns:
    The config with a vocabulary, and for a next-vector model with the paper's
    autoencoder where it has none of its own.

  Raises:
    ValueError: if two values do not fit.
  """
  if vocab_size < 3:
    raise ValueError(
      f"vocab_size is {vocab_size}; give 3 or more, such as 128256 of Llama 3."
    )
  model = config.model
  vocabulary = model.vocabulary or VocabularyConfig(
    size=vocab_size, begin_id=vocab_size - 2, end_id=vocab_size - 1
  )
  autoencoder = None
  if model.needs_autoencoder:
    autoencoder = config.autoencoder or AutoencoderConfig(
      vocabulary=vocabulary,
      chunk_size=model.chunk_size,
      latent_size=model.latent_size or 32 * model.chunk_size,
      dtype=model.dtype,
    )
  return resolve(config, vocabulary=vocabulary, autoencoder=autoencoder)


def default_mesh(config: ExperimentConfig, num_chips: int) -> MeshConfig:
  """As many rows side by side as there are; `tensor` takes the chips left.

  Args:
    config: of the run.
    num_chips: of the slice.

  Returns:
    Sizes that multiply to the chips.
  """
  rows = config.data.batch_size // config.num_microbatches
  num_row_parts = math.gcd(rows, num_chips)
  rest = num_chips // num_row_parts
  tensor = math.gcd(rest, getattr(config.model, "num_heads", 1))
  fsdp = math.gcd(num_row_parts, _MAX_FSDP)
  return MeshConfig(
    data=num_row_parts // fsdp,
    fsdp=fsdp,
    tensor=tensor,
    sequence=rest // tensor,
  )


def parse_mesh(text: str) -> MeshConfig:
  """Reads `data=4,fsdp=16`; an axis that is not named has size 1.

  Without `data`, that axis takes the chips that are left.

  Raises:
    ValueError: if an axis is unknown or its size no whole number.
  """
  sizes = {}
  for word in text.split(","):
    name, _, size = word.partition("=")
    if name not in MESH_AXES or not size.isdecimal():
      raise ValueError(
        f"mesh {text!r}: {word!r} should be AXIS=SIZE with an axis of"
        f" {', '.join(MESH_AXES)}, such as data=4,fsdp=16."
      )
    sizes[name] = int(size)
  return MeshConfig(**sizes)
