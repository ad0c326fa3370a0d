"""What a config leaves to the data and to other runs, for want of them."""

from calm_jax.config import (
  AutoencoderConfig,
  ExperimentConfig,
  VocabularyConfig,
  resolve,
)
from calm_jax.training.sharding import MESH_AXES


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


def parse_mesh(text: str) -> dict[str, int]:
  """Reads `data=4,fsdp=16`.

  Returns:
    Sizes by axis, of those that are named.

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
  return sizes
