"""Published autoencoders."""

from collections.abc import Mapping
from typing import Any

from calm_jax.config import AutoencoderConfig
from calm_jax.families.published import (
  CHUNK_FIELDS,
  SHARED_FIELDS,
  Published,
  get,
  read_chunks,
  read_vocabulary,
)
from calm_jax.layers.published import (
  Entry,
  linear_entries,
  scale_entry,
  swiglu_entries,
  table_entry,
)


class PublishedAutoencoder(Published):
  """The authors' Autoencoder."""

  architectures = ("Autoencoder",)
  fields = (
    SHARED_FIELDS
    | CHUNK_FIELDS
    | {
      "num_encoder_layers",
      "num_decoder_layers",
      "ae_dropout",
      "kl_weight",
      "kl_clamp",
    }
  )

  def fixed(self, architecture: str) -> dict[str, tuple[Any, ...]]:
    del architecture
    return {"model_type": ("",)}

  def read(
    self, architecture: str, values: Mapping[str, Any]
  ) -> AutoencoderConfig:
    del architecture
    dropout = get(values, "ae_dropout", float, 0.15)
    return AutoencoderConfig(
      vocabulary=read_vocabulary(values),
      hidden_size=get(values, "hidden_size", int),
      ffn_size=get(values, "intermediate_size", int),
      num_encoder_layers=get(values, "num_encoder_layers", int),
      num_decoder_layers=get(values, "num_decoder_layers", int),
      **read_chunks(values),
      token_mask_rate=dropout,
      latent_dropout_rate=dropout,
      kl_weight=get(values, "kl_weight", float, 1e-3),
      kl_floor=get(values, "kl_clamp", float, 0.5),
      norm_epsilon=get(values, "rms_norm_eps", float, 1e-6),
    )

  def write(
    self, model: AutoencoderConfig, *, num_chunks: int, autoencoder_path: str
  ) -> dict[str, Any]:
    del num_chunks, autoencoder_path
    return {
      "architectures": [*self.architectures],
      "patch_size": model.chunk_size,
      "latent_size": model.latent_size,
      "num_encoder_layers": model.num_encoder_layers,
      "num_decoder_layers": model.num_decoder_layers,
      "ae_dropout": model.token_mask_rate,
      "kl_weight": model.kl_weight,
      "kl_clamp": model.kl_floor,
    }

  def entries(self, model: AutoencoderConfig) -> list[Entry]:
    found = [
      table_entry(("embedding", "embedding"), "encoder.embed_tokens.weight")
    ]
    for part, num_layers, kinds in (
      ("encoder", model.num_encoder_layers, ("token", "chunk")),
      ("decoder", model.num_decoder_layers, ("chunk", "token")),
    ):
      half = num_layers // 2
      for i in range(num_layers):
        block = (part, f"{kinds[i // half]}_blocks_{i % half}")
        source = f"{part}.{part}_layers.{i}"
        found.append(
          scale_entry((*block, "norm"), f"{source}.layernorm.weight")
        )
        found += swiglu_entries((*block, "mlp"), f"{source}.mlp")
      found.append(scale_entry((part, "norm"), f"{part}.norm.weight"))
    return [
      *found,
      *linear_entries(("encoder", "squeeze"), "encoder.squeeze_layer"),
      *linear_entries(("encoder", "posterior"), "encoder.hidden_to_latent"),
      *linear_entries(("decoder", "from_latent"), "decoder.latent_to_hidden"),
      *linear_entries(("decoder", "expand"), "decoder.expand_layer"),
    ]
