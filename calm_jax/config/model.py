"""The three kinds of models, and the table of them."""

import dataclasses
from typing import ClassVar

from calm_jax.config.fields import (
  DTYPES,
  IMPLEMENTATIONS,
  REMAT,
  added,
  check_choice,
  check_divides,
  check_not_negative,
  check_positive,
  check_range,
  config_class,
  rebuild,
)
from calm_jax.config.heads import EnergyHeadConfig, HeadConfig
from calm_jax.config.posteriors import GaussianPosteriorConfig, PosteriorConfig
from calm_jax.config.vocabulary import VocabularyConfig


@config_class
class ModelConfig:
  """What all models have."""

  kinds: ClassVar[dict[str, type["ModelConfig"]]]  # by name, see below
  kind: ClassVar[str]
  # What tables and pages call the family of those that predict.
  label: ClassVar[str] = ""
  title: ClassVar[str] = ""
  predicts: ClassVar[bool] = True  # what comes next; False: it rebuilds
  needs_autoencoder: ClassVar[bool] = False  # a frozen one, for its latents
  has_likelihoods: ClassVar[bool] = False  # of the next token
  ties_embedding: ClassVar[bool] = False  # the table is multiplied by, too
  # None: that of the data, or of the autoencoder where there is one.
  vocabulary: VocabularyConfig | None = None

  def fill(
    self, vocabulary: VocabularyConfig, autoencoder: "AutoencoderConfig | None"
  ) -> None:
    """Sets what was left None.

    Args:
      vocabulary: that of the data.
      autoencoder: the frozen one, of models that need one.

    Raises:
      ValueError: if it is missing or does not fit.
    """
    del autoencoder
    if self.vocabulary is None:
      self.vocabulary = vocabulary


@config_class
class AutoencoderConfig(ModelConfig):
  """K tokens to one latent and back (paper §2)."""

  kind: ClassVar[str] = "autoencoder"
  predicts: ClassVar[bool] = False
  ties_embedding: ClassVar[bool] = True
  chunk_size: int = 4  # K, tokens
  latent_size: int | None = None  # Z; None: 32·K
  hidden_size: int = 512  # E
  ffn_size: int = 1280  # F_ae
  num_encoder_layers: int = 2  # first half at token level, rest at chunk level
  num_decoder_layers: int = 2  # first half at chunk level, rest at token level
  norm_epsilon: float = 1e-6
  token_mask_rate: float = 0.15  # training only
  latent_dropout_rate: float = 0.15  # training only
  kl_weight: float = 1e-3  # β_KL
  kl_floor: float = 0.5  # λ_KL, nats per chunk and dimension
  init_std: float = 0.02  # of Linear and embedding parameters
  dtype: str = "float32"  # of the residual stream and matrix products
  # none | dots | full: what the backward pass computes again of the blocks
  remat: str = added("none", absent="none", is_of_model=False)
  vocabulary_implementation: str = "auto"  # cross-entropy and argmax over V
  # Of the logits that these have at once on a device; None: by platform.
  vocabulary_block_mib: float | None = added(
    None, absent=None, is_of_model=False
  )
  posterior: PosteriorConfig = added(
    GaussianPosteriorConfig(), absent=GaussianPosteriorConfig()
  )

  def __post_init__(self):
    check_positive(
      self,
      "chunk_size",
      "hidden_size",
      "ffn_size",
      "num_encoder_layers",
      "num_decoder_layers",
      "norm_epsilon",
      "init_std",
    )
    check_not_negative(self, "kl_weight", "kl_floor")
    for name in ("num_encoder_layers", "num_decoder_layers"):
      if getattr(self, name) % 2:
        raise ValueError(
          f"{name} is {getattr(self, name)}; half of the layers work on tokens"
          " and half on chunks, so give an even number."
        )
    if self.latent_size is not None:
      check_positive(self, "latent_size")
    check_range(self, "token_mask_rate", 0, 0.99)
    check_range(self, "latent_dropout_rate", 0, 0.99)
    check_choice(self, "dtype", DTYPES)
    check_choice(self, "remat", REMAT)
    check_choice(self, "vocabulary_implementation", IMPLEMENTATIONS)
    if self.vocabulary_block_mib is not None:
      check_positive(self, "vocabulary_block_mib")
    for name in self.posterior.unused:
      value, default = getattr(self, name), getattr(AutoencoderConfig, name)
      if value != default:
        raise ValueError(
          f"{name} is {value}, and a {self.posterior.kind} posterior has no use"
          f" for it; leave it at {default}."
        )

  def fill(
    self, vocabulary: VocabularyConfig, autoencoder: "AutoencoderConfig | None"
  ) -> None:
    super().fill(vocabulary, autoencoder)
    if self.latent_size is None:
      self.latent_size = 32 * self.chunk_size


@config_class
class BackboneConfig(ModelConfig):
  """The Llama-like transformer that both predicting models share (§3.1)."""

  hidden_size: int = 768  # D
  ffn_size: int = 2048  # F
  num_layers: int = 12
  num_heads: int = 16  # H
  num_kv_heads: int | None = None  # G, divides H; None: H
  rope_theta: float = 10_000.0
  norm_epsilon: float = 1e-6
  use_segment_mask: bool = False  # attention stays inside a document
  init_std: float = 0.02  # of Linear and embedding parameters
  dtype: str = "float32"  # of the residual stream and matrix products
  # none | dots | full: what the backward pass computes again of layers, chunk
  # embedding and head
  remat: str = "none"
  attention_implementation: str = "auto"

  def __post_init__(self):
    check_positive(
      self,
      "hidden_size",
      "ffn_size",
      "num_layers",
      "num_heads",
      "rope_theta",
      "norm_epsilon",
      "init_std",
    )
    check_divides(self, "num_heads", "hidden_size")
    if (self.hidden_size // self.num_heads) % 2:
      raise ValueError(
        f"hidden_size {self.hidden_size} over num_heads {self.num_heads} gives"
        " an odd head width; rotary embeddings need an even one."
      )
    if self.num_kv_heads is not None:
      check_positive(self, "num_kv_heads")
      check_divides(self, "num_kv_heads", "num_heads")
    check_choice(self, "dtype", DTYPES)
    check_choice(self, "remat", REMAT)
    check_choice(self, "attention_implementation", IMPLEMENTATIONS)

  @property
  def head_size(self) -> int:
    return self.hidden_size // self.num_heads


@config_class
class NextVectorConfig(BackboneConfig):
  """The model that predicts the latent of the next chunk (paper §3)."""

  kind: ClassVar[str] = "next_vector"
  label: ClassVar[str] = "calm"
  title: ClassVar[str] = "CALM"
  needs_autoencoder: ClassVar[bool] = True
  chunk_size: int = 4  # K, that of the autoencoder
  latent_size: int | None = None  # Z; None: that of the autoencoder
  inputs: str = "tokens"  # tokens | latent | both
  head: HeadConfig = dataclasses.field(default_factory=EnergyHeadConfig)
  # Of the cross-entropy of the next chunk's tokens, read from the hidden state
  # alone, beside the head's loss; training only.
  auxiliary_weight: float = added(0.0, absent=0.0, is_of_model=False)
  # E of the table it is read by; None: the autoencoder's, or no such loss.
  auxiliary_size: int | None = added(None, absent=None, is_of_model=False)
  # Of the Brier scores of what the head's samples decode to; training only.
  brier_weight: float = added(0.0, absent=0.0, is_of_model=False)

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, "chunk_size")
    check_not_negative(self, "auxiliary_weight", "brier_weight")
    if self.brier_weight and not self.head.samples_in_training:
      able = [
        name
        for name, head in HeadConfig.kinds.items()
        if head.samples_in_training
      ]
      raise ValueError(
        f"brier_weight is {self.brier_weight}, and a {self.head.kind} head"
        f" draws no samples in training; take {' or '.join(able)}, or give 0."
      )
    if self.auxiliary_size is not None:
      check_positive(self, "auxiliary_size")
      if not self.auxiliary_weight:
        raise ValueError(
          f"auxiliary_size is {self.auxiliary_size} and auxiliary_weight 0;"
          " without that loss, leave auxiliary_size at None."
        )
    if self.latent_size is not None:
      check_positive(self, "latent_size")
    check_choice(self, "inputs", ("tokens", "latent", "both"))

  def fill(
    self, vocabulary: VocabularyConfig, autoencoder: AutoencoderConfig | None
  ) -> None:
    if autoencoder is None:
      raise ValueError(
        "a next-vector model needs a trained autoencoder; give its run"
        " directory as --config.autoencoder_run=DIR."
      )
    vocabulary.check_same_ids(autoencoder.vocabulary)
    # Converted weights mask with another id than a tokenizer of ours would.
    super().fill(rebuild(autoencoder.vocabulary), autoencoder)
    if self.latent_size is None:
      self.latent_size = autoencoder.latent_size
    if self.auxiliary_weight and self.auxiliary_size is None:
      self.auxiliary_size = autoencoder.hidden_size
    self.check_fit(autoencoder)

  def check_fit(self, autoencoder: AutoencoderConfig) -> None:
    """Raises ValueError unless the autoencoder serves the model."""
    names = {name: name for name in ("chunk_size", "latent_size", "vocabulary")}
    if self.auxiliary_weight:
      names["auxiliary_size"] = "hidden_size"
    for ours, theirs in names.items():
      wanted, found = getattr(self, ours), getattr(autoencoder, theirs)
      if wanted != found:
        other = "" if ours == theirs else f"{theirs} "
        raise ValueError(
          f"the model has {ours} {wanted} and its autoencoder {other}{found};"
          " train an autoencoder that fits or change the model."
        )


@config_class
class TokenModelConfig(BackboneConfig):
  """The same backbone as an ordinary token model, the baseline (§7.1)."""

  kind: ClassVar[str] = "token"
  label: ClassVar[str] = "token"
  title: ClassVar[str] = "token model"
  has_likelihoods: ClassVar[bool] = True
  vocabulary_implementation: str = "auto"  # cross-entropy over V
  # Of the logits that it has at once on a device; None: by platform.
  vocabulary_block_mib: float | None = added(
    None, absent=None, is_of_model=False
  )

  def __post_init__(self):
    super().__post_init__()
    check_choice(self, "vocabulary_implementation", IMPLEMENTATIONS)
    if self.vocabulary_block_mib is not None:
      check_positive(self, "vocabulary_block_mib")

  @property
  def chunk_size(self) -> int:
    return 1


ModelConfig.kinds = {
  model.kind: model
  for model in (AutoencoderConfig, NextVectorConfig, TokenModelConfig)
}
