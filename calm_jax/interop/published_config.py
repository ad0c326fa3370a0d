"""`config.json` of a published checkpoint to our configs, and back."""

import pathlib
from collections.abc import Mapping
from typing import Any

from calm_jax import json_files
from calm_jax.config import (
  AutoencoderConfig,
  ExperimentConfig,
  ModelConfig,
  news,
)
from calm_jax.families import FAMILIES, family_of
from calm_jax.families.published import get, read_vocabulary
from calm_jax.families.published_fields import FIXED, check_fields, show

# Fields that are a length of some tensor, and those that count tensors.
WIDTHS = (
  "vocab_size",
  "hidden_size",
  "intermediate_size",
  "latent_size",
  "noise_size",
  "patch_size",
  "num_attention_heads",
  "num_key_value_heads",
)
LAYER_COUNTS = (
  "num_hidden_layers",
  "num_encoder_layers",
  "num_decoder_layers",
  "num_mlp_layers",
)

# Written though they are defaults: the authors' classes read them.
_WRITTEN = ("hidden_act", "attention_bias", "mlp_bias")


def read_values(directory: pathlib.Path) -> dict[str, Any]:
  """Reads `config.json`.

  Raises:
    OSError: if there is none.
    ValueError: if it is no JSON object.
  """
  path = directory / "config.json"
  if not path.is_file():
    raise FileNotFoundError(
      f"{directory} has no config.json; give the directory of a published"
      " checkpoint."
    )
  try:
    values = json_files.parse(
      path.read_text("utf-8-sig"), is_finite=False, object_fn=_without_doubles
    )
  except ValueError as error:
    raise ValueError(
      f"{path} is not a JSON file: {str(error)[:200]}."
    ) from None
  if not isinstance(values, dict):
    raise ValueError(f"{path} is no JSON object; download it again.")
  return values


def to_model_config(values: Mapping[str, Any]) -> ModelConfig:
  """The model that a `config.json` describes.

  Args:
    values: of the file.

  Returns:
    A resolved config of one of the published kinds.

  Raises:
    ValueError: if the architecture is unknown, or a field is missing or odd.
  """
  known = {
    name: family.published
    for family in FAMILIES.values()
    if family.published is not None
    for name in family.published.architectures
  }
  found = values.get("architectures")
  if not isinstance(found, list) or found not in [[name] for name in known]:
    raise ValueError(
      f"config.json has architectures {show(found)}; one of"
      f" {', '.join(known)} was expected."
    )
  architecture = found[0]
  published = known[architecture]
  # A file may hold fields of the other kinds, which its own does not read.
  fields = frozenset().union(*(each.fields for each in known.values()))
  check_fields(values, architecture, fields, published.fixed(architecture))
  return published.read(architecture, values)


def inner_autoencoder(
  values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> AutoencoderConfig:
  """The autoencoder copied into a CALM checkpoint, from its tensors' shapes.

  The checkpoint's config does not describe it. What shapes do not tell, the
  noises and weights of its training, is as in the paper.

  Args:
    values: of the CALM checkpoint's `config.json`.
    shapes: of the inner tensors, without their prefix.

  Returns:
    A resolved config.

  Raises:
    ValueError: if a tensor is missing that the sizes are read from.
  """

  def size(name: str, axis: int) -> int:
    if name not in shapes or len(shapes[name]) != 2:
      raise ValueError(
        f"tensor ae_model.{name} is missing or no matrix; the autoencoder's"
        " sizes are read from it."
      )
    return shapes[name][axis]

  def count(prefix: str) -> int:
    layers = {n.split(".")[2] for n in shapes if n.startswith(prefix)}
    return len(layers)

  return AutoencoderConfig(
    vocabulary=read_vocabulary(values),
    chunk_size=get(values, "patch_size", int),
    latent_size=size("decoder.latent_to_hidden.weight", 1),
    hidden_size=size("decoder.latent_to_hidden.weight", 0),
    ffn_size=size("encoder.encoder_layers.0.mlp.gate_proj.weight", 0),
    num_encoder_layers=count("encoder.encoder_layers."),
    num_decoder_layers=count("decoder.decoder_layers."),
  )


def row_length(values: Mapping[str, Any], chunk_size: int) -> int:
  """T: the context, 2048 chunks in the paper, in tokens."""
  return chunk_size * get(values, "max_position_embeddings", int, 2048)


def from_experiment(
  config: ExperimentConfig, autoencoder_path: str
) -> dict[str, Any]:
  """What the authors' classes read, for a model of ours.

  Args:
    config: of the run.
    autoencoder_path: `ae_path`, in next-vector models.

  Returns:
    Values of `config.json`.

  Raises:
    ValueError: if the authors' classes know no such model.
  """
  model = config.model
  published = family_of(model).published
  if published is None:
    raise ValueError(
      f"a model of kind {model.kind!r} has no counterpart among the authors'"
      " classes."
    )
  if found := news(model):
    name, value = next(iter(found.items()))
    raise ValueError(
      f"{name} of the {model.kind} model is {getattr(value, 'kind', value)!r},"
      " which the authors' classes do not have; the run stays one of this"
      " package."
    )
  vocabulary = model.vocabulary
  return {
    "vocab_size": vocabulary.size,
    "bos_token_id": vocabulary.begin_id,
    "eos_token_id": vocabulary.end_id,
    "pad_token_id": vocabulary.end_id,
    "hidden_size": model.hidden_size,
    "intermediate_size": model.ffn_size,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "rope_scaling": None,
    **{name: FIXED[name][0] for name in _WRITTEN},
    **published.write(
      model,
      num_chunks=config.num_chunks,
      autoencoder_path=autoencoder_path,
    ),
  }


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values = dict(pairs)
  if len(values) < len(pairs):
    names = [name for name, _ in pairs]
    double = next(name for name in names if names.count(name) > 1)
    raise ValueError(f"it has {show(double)} twice")
  return values
