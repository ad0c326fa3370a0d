"""A published checkpoint to a run directory, tensor by tensor."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from calm_jax.checkpoint.run_directory import RunDirectory, content_hash
from calm_jax.config import (
  AutoencoderConfig,
  DataConfig,
  ExperimentConfig,
  ModelConfig,
  NextVectorConfig,
)
from calm_jax.data.tokenizer import IdTokenizer, Tokenizer, load_tokenizer
from calm_jax.interop import published_config
from calm_jax.interop.buffers import find_buffers
from calm_jax.interop.lazy_arrays import save_step
from calm_jax.interop.names import AUTOENCODER_PREFIX
from calm_jax.interop.origin import Origin, write_origin
from calm_jax.interop.param_reader import ParamReader
from calm_jax.interop.target_directory import check_free, written_beside
from calm_jax.interop.weights import Weights

# Sizes up to here cost nothing; a field that a kind does not read may have any.
_ORDINARY = 1024
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def convert(
  source: pathlib.Path,
  target: pathlib.Path,
  *,
  tokenizer: pathlib.Path | None = None,
  autoencoder: pathlib.Path | None = None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
  """Reads a Hugging Face directory and writes a run directory.

  Nothing is written before every name and shape was checked, and the target
  appears whole or not at all.

  Args:
    source: holds `config.json` and weights.
    target: absent, or an empty directory.
    tokenizer: a file or directory; None: that of the source if it has one,
      else one whose text is the ids themselves. It may have fewer ids than
      the model, whose last rows then stand for no text.
    autoencoder: directory in place of the `ae_path` of a CALM checkpoint.
    progress: told the bytes done and their total.

  Raises:
    OSError: if a file is missing, or cannot be read or written.
    ValueError: if the checkpoint is damaged, or not one of the five kinds.
  """
  check_free(target)
  values = published_config.read_values(source)
  model = published_config.to_model_config(values)
  weights = Weights(source)
  _check_sizes(values, weights)
  frozen_reader, frozen_values = None, None
  if model.needs_autoencoder:
    frozen_reader, frozen_values = _find_autoencoder(
      weights, values, model, autoencoder
    )
  reader = ParamReader(weights, model)
  readers = [reader] if frozen_reader is None else [reader, frozen_reader]
  here = [each.names for each in readers if each.weights is weights]
  buffers = find_buffers(weights, model)
  _refuse_extra(weights, buffers.union(*here))
  found_tokenizer = _find_tokenizer(source, tokenizer, model)
  total, done = sum(reader.nbytes for reader in readers), 0

  def advance(num_bytes: int) -> None:
    nonlocal done
    done += num_bytes
    progress(done, total)

  for each in readers:
    each.on_read = advance
  frozen = None
  if frozen_reader is not None:
    frozen = frozen_reader.tree(lambda lazy: np.asarray(lazy))
  config = ExperimentConfig(
    model=model,
    autoencoder=frozen_reader.config if frozen_reader else None,
    data=DataConfig(
      row_length=published_config.row_length(values, model.chunk_size)
    ),
  )
  hashes = {"tokenizer": found_tokenizer.content_hash}
  if frozen is not None:
    hashes["autoencoder"] = content_hash(frozen)
  with written_beside(target) as directory:
    run = RunDirectory(directory)
    run.create(config, found_tokenizer, frozen)
    del frozen
    save_step(run.steps, reader.tree(), hashes)
    dtypes = {}
    for each in readers:
      dtypes |= each.dtypes
    origin = Origin(
      config=values, autoencoder_config=frozen_values, dtypes=dtypes
    )
    write_origin(epath.Path(directory), origin)


def _find_autoencoder(
  weights: Weights,
  values: dict[str, Any],
  model: NextVectorConfig,
  directory: pathlib.Path | None,
) -> tuple[ParamReader, dict[str, Any] | None]:
  """The copy inside the checkpoint; else the directory it names.

  Returns:
    A reader of its parameters, and the `config.json` of its own directory.
  """
  path = directory or weights.directory / str(values.get("ae_path") or "")
  has_path = (path / "config.json").is_file() and path != weights.directory
  if directory is not None and not has_path:
    raise FileNotFoundError(
      f"the autoencoder {directory} has no config.json; give the directory of"
      " a published autoencoder."
    )
  shapes = {
    name.removeprefix(AUTOENCODER_PREFIX): weights.shape(name)
    for name in weights.names
    if name.startswith(AUTOENCODER_PREFIX)
  }
  own_values = published_config.read_values(path) if has_path else None
  if own_values is not None:
    if shapes:
      _check_sizes(own_values, weights)
    config: ModelConfig = published_config.to_model_config(own_values)
    if not isinstance(config, AutoencoderConfig):
      raise ValueError(
        f"{path} holds {own_values['architectures'][0]}, and an Autoencoder"
        " was expected there; give --autoencoder."
      )
  elif shapes:
    config = published_config.inner_autoencoder(values, shapes)
  else:
    raise ValueError(
      f"{weights.directory} has no ae_model tensors, and its ae_path"
      f" {values.get('ae_path')!r} is no directory here; give the autoencoder"
      " as --autoencoder=DIR."
    )
  model.check_fit(config)
  if shapes and directory is None:
    return ParamReader(weights, config, AUTOENCODER_PREFIX), own_values
  other = Weights(path)
  _check_sizes(own_values, other)
  reader = ParamReader(other, config)
  _refuse_extra(other, reader.names | find_buffers(other, config))
  return reader, own_values


def _find_tokenizer(
  source: pathlib.Path, path: pathlib.Path | None, model: ModelConfig
) -> Tokenizer:
  candidates = [source / name for name in _TOKENIZER_FILES]
  found = path or next((file for file in candidates if file.exists()), None)
  if found is None:
    return IdTokenizer(model.vocabulary)
  tokenizer = load_tokenizer(found)
  if tokenizer.vocabulary.size < model.vocabulary.size:
    # Tables are often longer than the tokenizer, for a round number of rows.
    tokenizer.pad(model.vocabulary.size)
  for name in ("size", "begin_id", "end_id"):
    here = getattr(tokenizer.vocabulary, name)
    there = getattr(model.vocabulary, name)
    if here != there:
      raise ValueError(
        f"the tokenizer {found} has {name} {here}, and the checkpoint {there};"
        " give the one it was trained with as --tokenizer."
      )
  return tokenizer


def _refuse_extra(weights: Weights, known: set[str]) -> None:
  extra = sorted(set(weights.names) - known)
  if extra:
    raise ValueError(
      f"tensor {extra[0]} {weights.shape(extra[0])} in {weights.directory}"
      " belongs to no part of the model its config.json describes"
      f" ({len(extra)} such); check num_*_layers and architectures."
    )


def _check_sizes(values: Mapping[str, Any], weights: Weights) -> None:
  """Refuses sizes that no tensor has, before a model of them is described."""
  longest = max(
    (max(weights.shape(x), default=0) for x in weights.names), default=0
  )
  for names, most, what in (
    (published_config.LAYER_COUNTS, len(weights.names), "tensors"),
    (published_config.WIDTHS, longest, "numbers along an axis"),
  ):
    for name in names:
      found = values.get(name)
      if isinstance(found, int) and found > max(most, _ORDINARY):
        raise ValueError(
          f"config.json has {name} {found}, and its weights in"
          f" {weights.directory} have {most} {what} at most; one of the two"
          " belongs to another model."
        )
