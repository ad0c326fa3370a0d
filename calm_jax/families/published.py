"""A kind of model in the files of published checkpoints."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from calm_jax.config import BackboneConfig, ModelConfig, VocabularyConfig
from calm_jax.families.published_fields import show
from calm_jax.families.published_rope import FIELDS as ROPE_FIELDS
from calm_jax.families.published_rope import read_rope_theta
from calm_jax.layers.published import (
  Entry,
  scale_entry,
  swiglu_entries,
)

_REQUIRED = object()
_MAX = {int: 2**31 - 1, float: 1e30}

SHARED_FIELDS = frozenset(
  {
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "hidden_size",
    "intermediate_size",
    "rms_norm_eps",
    "max_position_embeddings",
  }
)
BACKBONE_FIELDS = (
  SHARED_FIELDS
  | ROPE_FIELDS
  | {
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
  }
)
CHUNK_FIELDS = frozenset({"patch_size", "latent_size"})


class Published:
  """What the authors' classes of one kind read and write.

  Attributes:
    architectures: names of those classes.
    fields: of `config.json` that `read` reads, or that stand in the files of
      this kind and change nothing.
    missing: what to say of a tensor that is not there, by its name.
  """

  architectures: tuple[str, ...] = ()
  fields: frozenset[str] = frozenset()
  missing: Mapping[str, str] = MappingProxyType({})

  def fixed(self, architecture: str) -> dict[str, tuple[Any, ...]]:
    """Fields that this kind demands, with what they may hold."""
    del architecture
    return {}

  def read(self, architecture: str, values: Mapping[str, Any]) -> ModelConfig:
    """The model that a `config.json` describes.

    Args:
      architecture: one of `architectures`.
      values: of the file; what Hugging Face leaves out has Llama's defaults.

    Returns:
      A resolved config.

    Raises:
      ValueError: if a field is missing or odd.
    """
    raise NotImplementedError

  def write(
    self, model: ModelConfig, *, num_chunks: int, autoencoder_path: str
  ) -> dict[str, Any]:
    """Values of `config.json` that are not those of all kinds.

    Args:
      model: resolved.
      num_chunks: L, the context.
      autoencoder_path: of the frozen autoencoder, if the model has one.

    Raises:
      ValueError: if the authors' classes know no such model.
    """
    raise NotImplementedError

  def entries(self, model: ModelConfig) -> list[Entry]:
    """Every parameter and its tensors, without those of an autoencoder."""
    raise NotImplementedError


def get(
  values: Mapping[str, Any], name: str, kind: type, default: Any = _REQUIRED
) -> Any:
  """A value of `config.json` of that type; raises ValueError otherwise.

  Args:
    values: of the file.
    name: of the field.
    kind: int or float.
    default: of a file without the field; None: the file may say null too.
  """
  found = values.get(name)
  if found is None and default is None:
    return None
  if name not in values:
    if default is _REQUIRED:
      raise ValueError(f"config.json has no {name}; the model needs it.")
    return default
  accepted = (int, float) if kind is float else (int,)
  if type(found) not in accepted:
    raise ValueError(
      f"config.json has {name} {show(found)}; it should be of type"
      f" {kind.__name__}."
    )
  if not abs(found) <= _MAX[kind]:  # also of a NaN
    raise ValueError(
      f"config.json has {name} {show(found)}; no number between"
      f" {-_MAX[kind]:.0e} and {_MAX[kind]:.0e}."
    )
  return kind(found)


def read_vocabulary(values: Mapping[str, Any]) -> VocabularyConfig:
  """Dropped tokens become id 0 and every id is scored, as the authors do."""
  return VocabularyConfig(
    size=get(values, "vocab_size", int),
    begin_id=_first(values, "bos_token_id", 1),
    end_id=_first(values, "eos_token_id", 2),
    mask_id=0,
  )


def read_chunks(values: Mapping[str, Any]) -> dict[str, Any]:
  """What all models of chunks have."""
  return {
    "chunk_size": get(values, "patch_size", int),
    "latent_size": get(values, "latent_size", int),
  }


def read_backbone(values: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of `BackboneConfig`."""
  hidden_size = get(values, "hidden_size", int)
  num_heads = get(values, "num_attention_heads", int)
  head_size = get(values, "head_dim", int, None)
  if head_size is not None and head_size * num_heads != hidden_size:
    raise ValueError(
      f"config.json has head_dim {head_size}, num_attention_heads {num_heads}"
      f" and hidden_size {hidden_size}; only heads that share the width among"
      " them can be read."
    )
  return {
    "vocabulary": read_vocabulary(values),
    "hidden_size": hidden_size,
    "ffn_size": get(values, "intermediate_size", int),
    "num_layers": get(values, "num_hidden_layers", int),
    "num_heads": num_heads,
    "num_kv_heads": get(values, "num_key_value_heads", int, None),
    "rope_theta": read_rope_theta(values),
    "norm_epsilon": get(values, "rms_norm_eps", float, 1e-6),
  }


def write_backbone(model: BackboneConfig, num_chunks: int) -> dict[str, Any]:
  """The other way round."""
  return {
    "num_hidden_layers": model.num_layers,
    "num_attention_heads": model.num_heads,
    "num_key_value_heads": model.num_kv_heads or model.num_heads,
    "rope_theta": model.rope_theta,
    "max_position_embeddings": num_chunks,
  }


def backbone_entries(config: BackboneConfig, prefix: str) -> list[Entry]:
  """Tensors with the standard names of Llama."""
  layers = ("backbone", "layers")
  source = f"{prefix}layers.{{}}"
  attention = [
    Entry(
      path=(*layers, "attention", ours, "kernel"),
      source=f"{source}.self_attn.{theirs}_proj.weight",
      layout="linear",
      num_input_axes=2 if ours == "output" else 1,
    )
    for ours, theirs in zip(
      ("query", "key", "value", "output"), "qkvo", strict=True
    )
  ]
  stacked = [
    *attention,
    *swiglu_entries((*layers, "mlp"), f"{source}.mlp"),
    scale_entry(
      (*layers, "attention_norm"), f"{source}.input_layernorm.weight"
    ),
    scale_entry(
      (*layers, "mlp_norm"), f"{source}.post_attention_layernorm.weight"
    ),
  ]
  return [
    *(
      dataclasses.replace(entry, num_layers=config.num_layers)
      for entry in stacked
    ),
    scale_entry(("backbone", "norm"), f"{prefix}norm.weight"),
  ]


def _first(values: Mapping[str, Any], name: str, default: int) -> int:
  """A token id; where several may end a text, the first."""
  found = values.get(name)
  if isinstance(found, list) and found:
    return get({name: found[0]}, name, int)
  return get(values, name, int, default)
