"""`config.json` of a published checkpoint to our configs, and back."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from calm_jax.config import (
  AutoencoderConfig,
  BackboneConfig,
  DiffusionHeadConfig,
  EnergyHeadConfig,
  ExperimentConfig,
  FlowHeadConfig,
  HeadConfig,
  ModelConfig,
  NextVectorConfig,
  TokenModelConfig,
  VocabularyConfig,
)

_AUTOENCODER, _TOKEN_MODEL = "Autoencoder", "LlamaForCausalLM"
_HEADS: dict[str, type[HeadConfig]] = {
  "EnergyTransformer": EnergyHeadConfig,
  "DiffusionTransformer": DiffusionHeadConfig,
  "FlowTransformer": FlowHeadConfig,
}
_REQUIRED = object()
# What the models of the paper have, and a published config may not change.
_FIXED = {
  "hidden_act": "silu",
  "attention_bias": False,
  "mlp_bias": False,
  "rope_scaling": None,
}


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
    values = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"{path} is not a JSON file: {error}.") from None
  if not isinstance(values, dict):
    raise ValueError(f"{path} is no JSON object; download it again.")
  return values


def to_model_config(values: Mapping[str, Any]) -> ModelConfig:
  """The model that a `config.json` describes.

  Dropped tokens become id 0 and every id is scored, as the authors do.

  Args:
    values: of the file; what Hugging Face leaves out has Llama's defaults.

  Returns:
    A resolved config of one of the five kinds.

  Raises:
    ValueError: if the architecture is unknown, or a field is missing or odd.
  """
  kind = _architecture(values)
  for name, expected in _FIXED.items():
    if values.get(name, expected) != expected:
      raise ValueError(
        f"config.json has {name} {values[name]!r}; only {expected!r} can be"
        " read."
      )
  vocabulary = VocabularyConfig(
    size=_get(values, "vocab_size", int),
    begin_id=_first(values, "bos_token_id", 1),
    end_id=_first(values, "eos_token_id", 2),
    mask_id=0,
  )
  if kind == _AUTOENCODER:
    return AutoencoderConfig(
      vocabulary=vocabulary,
      hidden_size=_get(values, "hidden_size", int),
      ffn_size=_get(values, "intermediate_size", int),
      num_encoder_layers=_get(values, "num_encoder_layers", int),
      num_decoder_layers=_get(values, "num_decoder_layers", int),
      **_chunks(values),
      **_training(values),
    )
  backbone = {
    "vocabulary": vocabulary,
    "hidden_size": _get(values, "hidden_size", int),
    "ffn_size": _get(values, "intermediate_size", int),
    "num_layers": _get(values, "num_hidden_layers", int),
    "num_heads": _get(values, "num_attention_heads", int),
    "num_kv_heads": _get(values, "num_key_value_heads", int, None),
    "rope_theta": _get(values, "rope_theta", float, 10_000.0),
    "norm_epsilon": _get(values, "rms_norm_eps", float, 1e-6),
  }
  if kind == _TOKEN_MODEL:
    return TokenModelConfig(**backbone)
  return NextVectorConfig(
    **backbone, **_chunks(values), head=_head(kind, values)
  )


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

  model = to_model_config(values)
  assert isinstance(model, NextVectorConfig)
  return AutoencoderConfig(
    vocabulary=model.vocabulary,
    chunk_size=model.chunk_size,
    latent_size=size("decoder.latent_to_hidden.weight", 1),
    hidden_size=size("decoder.latent_to_hidden.weight", 0),
    ffn_size=size("encoder.encoder_layers.0.mlp.gate_proj.weight", 0),
    num_encoder_layers=count("encoder.encoder_layers."),
    num_decoder_layers=count("decoder.decoder_layers."),
  )


def row_length(values: Mapping[str, Any], chunk_size: int) -> int:
  """T: the context, 2048 chunks in the paper, in tokens."""
  return chunk_size * _get(values, "max_position_embeddings", int, 2048)


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
  vocabulary = model.vocabulary
  values: dict[str, Any] = {
    "vocab_size": vocabulary.size,
    "bos_token_id": vocabulary.begin_id,
    "eos_token_id": vocabulary.end_id,
    "pad_token_id": vocabulary.end_id,
    "hidden_size": model.hidden_size,
    "intermediate_size": model.ffn_size,
    "rms_norm_eps": model.norm_epsilon,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    **_FIXED,
  }
  if isinstance(model, AutoencoderConfig):
    return values | {
      "architectures": [_AUTOENCODER],
      "patch_size": model.chunk_size,
      "latent_size": model.latent_size,
      "num_encoder_layers": model.num_encoder_layers,
      "num_decoder_layers": model.num_decoder_layers,
      "ae_dropout": model.token_mask_rate,
      "kl_weight": model.kl_weight,
      "kl_clamp": model.kl_floor,
    }
  values |= _from_backbone(model, config.num_chunks)
  if isinstance(model, TokenModelConfig):
    return values | {"architectures": [_TOKEN_MODEL], "model_type": "llama"}
  return values | _from_next_vector(model, autoencoder_path)


def _from_backbone(model: BackboneConfig, num_chunks: int) -> dict[str, Any]:
  return {
    "num_hidden_layers": model.num_layers,
    "num_attention_heads": model.num_heads,
    "num_key_value_heads": model.num_kv_heads or model.num_heads,
    "rope_theta": model.rope_theta,
    "max_position_embeddings": num_chunks,
  }


def _from_next_vector(
  model: NextVectorConfig, autoencoder_path: str
) -> dict[str, Any]:
  names = {head: name for name, head in _HEADS.items()}
  if model.inputs != "tokens" or type(model.head) not in names:
    raise ValueError(
      f"a {model.head.kind} head with inputs {model.inputs!r} has no"
      " counterpart among the authors' classes; they read tokens, and have"
      " energy, diffusion and flow heads."
    )
  values = {
    "architectures": [names[type(model.head)]],
    "model_type": model.head.kind,
    "patch_size": model.chunk_size,
    "latent_size": model.latent_size,
    "num_mlp_layers": model.head.num_mlp_layers,
    "num_samples": model.head.num_samples,
    "ae_path": autoencoder_path,
  }
  if isinstance(model.head, EnergyHeadConfig):
    values |= {"noise_size": model.head.noise_size, "beta": model.head.alpha}
  return values


def _architecture(values: Mapping[str, Any]) -> str:
  known = (_AUTOENCODER, *_HEADS, _TOKEN_MODEL)
  found = values.get("architectures")
  if not isinstance(found, list) or len(found) != 1 or found[0] not in known:
    raise ValueError(
      f"config.json has architectures {found!r}; one of {', '.join(known)} was"
      " expected."
    )
  return found[0]


def _chunks(values: Mapping[str, Any]) -> dict[str, Any]:
  return {
    "chunk_size": _get(values, "patch_size", int),
    "latent_size": _get(values, "latent_size", int),
  }


def _training(values: Mapping[str, Any]) -> dict[str, Any]:
  dropout = _get(values, "ae_dropout", float, 0.15)
  return {
    "token_mask_rate": dropout,
    "latent_dropout_rate": dropout,
    "kl_weight": _get(values, "kl_weight", float, 1e-3),
    "kl_floor": _get(values, "kl_clamp", float, 0.5),
    "norm_epsilon": _get(values, "rms_norm_eps", float, 1e-6),
  }


def _head(kind: str, values: Mapping[str, Any]) -> HeadConfig:
  head = _HEADS[kind]
  fields = {
    "num_mlp_layers": _get(values, "num_mlp_layers", int),
    "num_samples": _get(values, "num_samples", int, head().num_samples),
  }
  if head is EnergyHeadConfig:
    fields["noise_size"] = _get(values, "noise_size", int)
    fields["alpha"] = _get(values, "beta", float, 1.0)
  return head(**fields)


def _first(values: Mapping[str, Any], name: str, default: int) -> int:
  """A token id; where several may end a text, the first."""
  found = values.get(name)
  if isinstance(found, list) and found:
    return _get({name: found[0]}, name, int)
  return _get(values, name, int, default)


def _get(
  values: Mapping[str, Any], name: str, kind: type, default: Any = _REQUIRED
) -> Any:
  found = values.get(name)
  if found is None:
    if default is _REQUIRED:
      raise ValueError(f"config.json has no {name}; the model needs it.")
    return default
  if kind is float and type(found) is int:
    found = float(found)
  if type(found) is not kind:
    raise ValueError(
      f"config.json has {name} {found!r}; it should be of type {kind.__name__}."
    )
  return found
