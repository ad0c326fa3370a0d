"""Published next-vector models, with the heads that the authors have."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from calm_jax.config import (
  DiffusionHeadConfig,
  EnergyHeadConfig,
  FlowHeadConfig,
  HeadConfig,
  NextVectorConfig,
)
from calm_jax.families.published import (
  BACKBONE_FIELDS,
  CHUNK_FIELDS,
  Published,
  backbone_entries,
  get,
  read_backbone,
  read_chunks,
  write_backbone,
)
from calm_jax.layers.published import (
  Entry,
  layer_norm_entries,
  linear_entries,
  table_entry,
)


class PublishedNextVector(Published):
  """The authors' EnergyTransformer, DiffusionTransformer, FlowTransformer."""

  fields = (
    BACKBONE_FIELDS
    | CHUNK_FIELDS
    | {"ae_path", "num_mlp_layers", "num_samples", "noise_size", "beta"}
  )

  @property
  def architectures(self) -> tuple[str, ...]:
    return tuple(head.architecture for head in _HEADS.values())

  def fixed(self, architecture: str) -> dict[str, tuple[Any, ...]]:
    kind, _ = _find_head(architecture)
    return {"model_type": (kind.kind, "")}

  def read(
    self, architecture: str, values: Mapping[str, Any]
  ) -> NextVectorConfig:
    kind, head = _find_head(architecture)
    fields = {
      "num_mlp_layers": get(values, "num_mlp_layers", int),
      "num_samples": get(values, "num_samples", int, kind().num_samples),
    }
    for ours, field in head.fields.items():
      fields[ours] = get(values, *field)
    return NextVectorConfig(
      **read_backbone(values), **read_chunks(values), head=kind(**fields)
    )

  def write(
    self, model: NextVectorConfig, *, num_chunks: int, autoencoder_path: str
  ) -> dict[str, Any]:
    head = _HEADS.get(type(model.head))
    if head is None or model.inputs != "tokens":
      raise ValueError(
        f"a {model.head.kind} head with inputs {model.inputs!r} has no"
        " counterpart among the authors' classes; they read tokens, and have"
        f" {', '.join(kind.kind for kind in _HEADS)} heads."
      )
    return {
      **write_backbone(model, num_chunks),
      "architectures": [head.architecture],
      "model_type": model.head.kind,
      "patch_size": model.chunk_size,
      "latent_size": model.latent_size,
      "num_mlp_layers": model.head.num_mlp_layers,
      "num_samples": model.head.num_samples,
      "ae_path": autoencoder_path,
      **{
        field[0]: getattr(model.head, ours)
        for ours, field in head.fields.items()
      },
    }

  def entries(self, model: NextVectorConfig) -> list[Entry]:
    embed = ("chunk_embed",)
    return [
      table_entry(
        (*embed, "embedding", "embedding"), "transformer.embed_tokens.weight"
      ),
      *linear_entries((*embed, "inner"), "embed_proj.0"),
      *linear_entries((*embed, "outer"), "embed_proj.2"),
      *layer_norm_entries((*embed, "norm"), "embed_proj.3"),
      *backbone_entries(model, "transformer."),
      *_HEADS[type(model.head)].entries_fn(model.head.num_mlp_layers),
    ]


def _adaln_head(num_blocks: int) -> list[Entry]:
  ours, theirs = ("head", "network"), "generative_head.net"
  found = [
    *linear_entries((*ours, "latent_embed"), f"{theirs}.input_proj"),
    *linear_entries((*ours, "condition_embed"), f"{theirs}.cond_embed"),
    *linear_entries((*ours, "time_inner"), f"{theirs}.time_embed.mlp.0"),
    *linear_entries((*ours, "time_outer"), f"{theirs}.time_embed.mlp.2"),
    *linear_entries((*ours, "outer"), f"{theirs}.final_layer.linear"),
    *linear_entries(
      (*ours, "modulation"), f"{theirs}.final_layer.adaLN_modulation.1"
    ),
  ]
  for i in range(num_blocks):
    block, source = (*ours, f"blocks_{i}"), f"{theirs}.res_blocks.{i}"
    found += layer_norm_entries((*block, "norm"), f"{source}.in_ln")
    found += linear_entries((*block, "inner"), f"{source}.mlp.0")
    found += linear_entries((*block, "outer"), f"{source}.mlp.2")
    found += linear_entries(
      (*block, "modulation"), f"{source}.adaLN_modulation.1"
    )
  return found


def _energy_head(num_blocks: int) -> list[Entry]:
  theirs = "generative_head"
  found = [
    *linear_entries(("head", "noise_embed"), f"{theirs}.noise_embd"),
    *layer_norm_entries(("head", "noise_norm"), f"{theirs}.norm_noise"),
    *linear_entries(("head", "condition_embed"), f"{theirs}.hidden_embd"),
    *layer_norm_entries(("head", "condition_norm"), f"{theirs}.norm_hidden"),
    *layer_norm_entries(("head", "norm"), f"{theirs}.final_layer.in_ln"),
    *linear_entries(("head", "inner"), f"{theirs}.final_layer.linears.0"),
    *linear_entries(("head", "outer"), f"{theirs}.final_layer.linears.2"),
  ]
  for i in range(num_blocks):
    block, source = ("head", f"blocks_{i}"), f"{theirs}.mlp_blocks.{i}"
    first = f"{source}.linears.0"
    found += layer_norm_entries((*block, "norm"), f"{source}.in_ln")
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
    found += linear_entries((*block, "middle"), f"{source}.linears.2")
    found += linear_entries((*block, "gate_value"), f"{source}.linears.4")
    found += linear_entries((*block, "down"), f"{source}.down_proj")
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Head:
  """A head among the authors' classes."""

  architecture: str
  entries_fn: Callable[[int], list[Entry]]  # of the number of blocks
  # Ours → theirs, its type and, where it may be missing, its default.
  fields: Mapping[str, tuple] = dataclasses.field(default_factory=dict)


_HEADS: dict[type[HeadConfig], _Head] = {
  EnergyHeadConfig: _Head(
    architecture="EnergyTransformer",
    entries_fn=_energy_head,
    fields={
      "noise_size": ("noise_size", int),
      "alpha": ("beta", float, 1.0),
    },
  ),
  DiffusionHeadConfig: _Head(
    architecture="DiffusionTransformer", entries_fn=_adaln_head
  ),
  FlowHeadConfig: _Head(architecture="FlowTransformer", entries_fn=_adaln_head),
}


def _find_head(architecture: str) -> tuple[type[HeadConfig], _Head]:
  return next(
    item for item in _HEADS.items() if item[1].architecture == architecture
  )
