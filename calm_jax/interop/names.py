"""Where each tensor of a published checkpoint stands in our parameter trees."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from calm_jax.config import (
  AutoencoderConfig,
  BackboneConfig,
  EnergyHeadConfig,
  ModelConfig,
  NextVectorConfig,
  TokenModelConfig,
)

# Pairs of names under which the same tensors are stored.
_ALIASES = (
  ("encoder.embed_tokens.weight", "decoder.lm_head_weight"),
  ("generative_head.", "mlp_generator."),
)
AUTOENCODER_PREFIX = "ae_model."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """One parameter of ours and the tensor, or tensors, it is made of."""

  path: tuple[str, ...]  # of the parameter in our tree
  source: str  # name of the tensor; `{}` stands for the layer, if stacked
  layout: str = "plain"  # plain | linear | table
  num_input_axes: int = 1  # linear: how many axes of ours are inputs
  half: int | None = None  # linear: which half of the tensor's inputs
  num_layers: int | None = None  # stacked along our first axis, or None

  @property
  def sources(self) -> list[str]:
    """The tensors' names, one a layer if stacked."""
    if self.num_layers is None:
      return [self.source]
    return [self.source.format(i) for i in range(self.num_layers)]

  def source_shape(
    self, shape: Sequence[int], vocabulary_size: int
  ) -> tuple[int, ...]:
    """Shape of each tensor, from that of our parameter."""
    shape = tuple(shape[self.num_layers is not None :])
    if self.layout == "table":
      return (vocabulary_size, *shape[1:])
    if self.layout == "plain":
      return shape
    num_inputs = math.prod(shape[: self.num_input_axes])
    num_outputs = math.prod(shape[self.num_input_axes :])
    return (num_outputs, num_inputs * (1 if self.half is None else 2))

  def from_source(self, tensor: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """One tensor, not of a table, to one layer of our parameter."""
    if self.half is not None:
      tensor = np.split(tensor, 2, axis=1)[self.half]
    if self.layout == "linear":  # torch keeps [out, in]
      tensor = tensor.T
    return tensor.reshape(shape[self.num_layers is not None :])

  def to_source(self, array: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """One layer of our parameter to the tensor, or to its half."""
    if self.layout == "table":
      return array[:vocabulary_size]
    if self.layout == "plain":
      return array
    num_inputs = math.prod(array.shape[: self.num_input_axes])
    return array.reshape(num_inputs, -1).T


def entries(config: ModelConfig) -> list[Entry]:
  """Every parameter of a model, without those of its autoencoder."""
  if isinstance(config, AutoencoderConfig):
    return _autoencoder(config)
  if isinstance(config, TokenModelConfig):
    return [
      _table(("embedding", "embedding"), "model.embed_tokens.weight"),
      *_backbone(config, "model."),
      _table(("output", "embedding"), "lm_head.weight"),
    ]
  assert isinstance(config, NextVectorConfig)
  embed = ("chunk_embed",)
  return [
    _table(
      (*embed, "embedding", "embedding"), "transformer.embed_tokens.weight"
    ),
    *_linear((*embed, "inner"), "embed_proj.0"),
    *_linear((*embed, "outer"), "embed_proj.2"),
    *_layer_norm((*embed, "norm"), "embed_proj.3"),
    *_backbone(config, "transformer."),
    *_head(config),
  ]


def aliases(name: str) -> list[str]:
  """All names under which a tensor may be stored, the given one first.

  Args:
    name: as `Entry.sources` gives it, perhaps after `AUTOENCODER_PREFIX`.

  Returns:
    One name or two.
  """
  prefix = AUTOENCODER_PREFIX if name.startswith(AUTOENCODER_PREFIX) else ""
  for first, second in _ALIASES:
    if not name.startswith(prefix + first):
      continue
    # Heads of diffusion and flow are stored once.
    if not name.startswith("generative_head.net."):
      return [name, prefix + second + name.removeprefix(prefix + first)]
  return [name]


def _autoencoder(config: AutoencoderConfig) -> list[Entry]:
  found = [_table(("embedding", "embedding"), "encoder.embed_tokens.weight")]
  for part, num_layers, kinds in (
    ("encoder", config.num_encoder_layers, ("token", "chunk")),
    ("decoder", config.num_decoder_layers, ("chunk", "token")),
  ):
    half = num_layers // 2
    for i in range(num_layers):
      block = (part, f"{kinds[i // half]}_blocks_{i % half}")
      source = f"{part}.{part}_layers.{i}"
      found.append(_scale((*block, "norm"), f"{source}.layernorm.weight"))
      found += _swiglu((*block, "mlp"), f"{source}.mlp")
    found.append(_scale((part, "norm"), f"{part}.norm.weight"))
  return [
    *found,
    *_linear(("encoder", "squeeze"), "encoder.squeeze_layer"),
    *_linear(("encoder", "posterior"), "encoder.hidden_to_latent"),
    *_linear(("decoder", "from_latent"), "decoder.latent_to_hidden"),
    *_linear(("decoder", "expand"), "decoder.expand_layer"),
  ]


def _backbone(config: BackboneConfig, prefix: str) -> list[Entry]:
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
    *_swiglu((*layers, "mlp"), f"{source}.mlp"),
    _scale((*layers, "attention_norm"), f"{source}.input_layernorm.weight"),
    _scale((*layers, "mlp_norm"), f"{source}.post_attention_layernorm.weight"),
  ]
  return [
    *(
      dataclasses.replace(entry, num_layers=config.num_layers)
      for entry in stacked
    ),
    _scale(("backbone", "norm"), f"{prefix}norm.weight"),
  ]


def _head(config: NextVectorConfig) -> list[Entry]:
  num_blocks = config.head.num_mlp_layers
  if isinstance(config.head, EnergyHeadConfig):
    return _energy_head(num_blocks)
  ours, theirs = ("head", "network"), "generative_head.net"
  found = [
    *_linear((*ours, "latent_embed"), f"{theirs}.input_proj"),
    *_linear((*ours, "condition_embed"), f"{theirs}.cond_embed"),
    *_linear((*ours, "time_inner"), f"{theirs}.time_embed.mlp.0"),
    *_linear((*ours, "time_outer"), f"{theirs}.time_embed.mlp.2"),
    *_linear((*ours, "outer"), f"{theirs}.final_layer.linear"),
    *_linear((*ours, "modulation"), f"{theirs}.final_layer.adaLN_modulation.1"),
  ]
  for i in range(num_blocks):
    block, source = (*ours, f"blocks_{i}"), f"{theirs}.res_blocks.{i}"
    found += _layer_norm((*block, "norm"), f"{source}.in_ln")
    found += _linear((*block, "inner"), f"{source}.mlp.0")
    found += _linear((*block, "outer"), f"{source}.mlp.2")
    found += _linear((*block, "modulation"), f"{source}.adaLN_modulation.1")
  return found


def _energy_head(num_blocks: int) -> list[Entry]:
  theirs = "generative_head"
  found = [
    *_linear(("head", "noise_embed"), f"{theirs}.noise_embd"),
    *_layer_norm(("head", "noise_norm"), f"{theirs}.norm_noise"),
    *_linear(("head", "condition_embed"), f"{theirs}.hidden_embd"),
    *_layer_norm(("head", "condition_norm"), f"{theirs}.norm_hidden"),
    *_layer_norm(("head", "norm"), f"{theirs}.final_layer.in_ln"),
    *_linear(("head", "inner"), f"{theirs}.final_layer.linears.0"),
    *_linear(("head", "outer"), f"{theirs}.final_layer.linears.2"),
  ]
  for i in range(num_blocks):
    block, source = ("head", f"blocks_{i}"), f"{theirs}.mlp_blocks.{i}"
    first = f"{source}.linears.0"
    found += _layer_norm((*block, "norm"), f"{source}.in_ln")
    for half, name in enumerate(("inner_x", "inner_condition")):
      found.append(
        Entry(
          path=(*block, name, "kernel"),
          source=f"{first}.weight",
          layout="linear",
          half=half,
        )
      )
    found.append(
      Entry(path=(*block, "inner_condition", "bias"), source=f"{first}.bias")
    )
    found += _linear((*block, "middle"), f"{source}.linears.2")
    found += _linear((*block, "gate_value"), f"{source}.linears.4")
    found += _linear((*block, "down"), f"{source}.down_proj")
  return found


def _linear(path: tuple[str, ...], source: str) -> list[Entry]:
  return [
    Entry(path=(*path, "kernel"), source=f"{source}.weight", layout="linear"),
    Entry(path=(*path, "bias"), source=f"{source}.bias"),
  ]


def _swiglu(path: tuple[str, ...], source: str) -> list[Entry]:
  return [
    Entry(
      path=(*path, name, "kernel"),
      source=f"{source}.{name}_proj.weight",
      layout="linear",
    )
    for name in ("gate", "up", "down")
  ]


def _layer_norm(path: tuple[str, ...], source: str) -> list[Entry]:
  return [
    _scale(path, f"{source}.weight"),
    Entry(path=(*path, "norm", "bias"), source=f"{source}.bias"),
  ]


def _scale(path: tuple[str, ...], source: str) -> Entry:
  return Entry(path=(*path, "norm", "scale"), source=source)


def _table(path: tuple[str, ...], source: str) -> Entry:
  return Entry(path=path, source=source, layout="table")
