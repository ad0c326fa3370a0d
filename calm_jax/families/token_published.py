"""Published token models: Llama."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from calm_jax.config import TokenModelConfig
from calm_jax.families.published import (
  BACKBONE_FIELDS,
  Published,
  backbone_entries,
  read_backbone,
  write_backbone,
)
from calm_jax.layers.published import Entry, table_entry


class PublishedTokenModel(Published):
  """Hugging Face's LlamaForCausalLM."""

  architectures = ("LlamaForCausalLM",)
  fields = BACKBONE_FIELDS
  missing = MappingProxyType(
    {
      "lm_head.weight": "this package keeps the output's table by itself: if"
      " the model ties it to its embeddings, store a copy of"
      " model.embed_tokens.weight under this name"
    }
  )

  def fixed(self, architecture: str) -> dict[str, tuple[Any, ...]]:
    del architecture
    return {"model_type": ("llama",), "tie_word_embeddings": (False,)}

  def read(
    self, architecture: str, values: Mapping[str, Any]
  ) -> TokenModelConfig:
    del architecture
    return TokenModelConfig(**read_backbone(values))

  def write(
    self, model: TokenModelConfig, *, num_chunks: int, autoencoder_path: str
  ) -> dict[str, Any]:
    del autoencoder_path
    return {
      **write_backbone(model, num_chunks),
      "architectures": [*self.architectures],
      "model_type": "llama",
    }

  def entries(self, model: TokenModelConfig) -> list[Entry]:
    return [
      table_entry(("embedding", "embedding"), "model.embed_tokens.weight"),
      *backbone_entries(model, "model."),
      table_entry(("output", "embedding"), "lm_head.weight"),
    ]
