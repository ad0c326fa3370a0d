"""Published token models: Llama."""

from collections.abc import Mapping
from typing import Any

from calm_jax.config import TokenModelConfig
from calm_jax.families.published import (
  Published,
  backbone_entries,
  read_backbone,
  write_backbone,
)
from calm_jax.layers.published import Entry, table_entry


class PublishedTokenModel(Published):
  """Hugging Face's LlamaForCausalLM."""

  architectures = ("LlamaForCausalLM",)

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
