"""Typed configs and their checks; know no other file of the package.

Letters, the same everywhere: B rows · T tokens a row · K tokens a chunk ·
L = T/K chunks · V vocabulary · E autoencoder width · D backbone width ·
F feed-forward width · H query heads · G key/value heads · Z latent size ·
N model samples · M target samples · U noise size.

The dataclasses are mutable because command-line flags set their fields one by
one; `resolve` then fills what was left `None` from the data and the
autoencoder, and builds everything anew so that every check runs on the final
values. Models take resolved configs only.

Where a field may hold one of several kinds (model, head, posterior), its class
is their base, and `BASE.kinds` is the table of them by name.

No `from __future__ import annotations` here: the flags read the annotations as
types.
"""

from calm_jax.config.argument import parse_argument
from calm_jax.config.data import DataConfig, SourceConfig
from calm_jax.config.experiment import (
  CHOSEN,
  ExperimentConfig,
  MeshConfig,
  resolve,
)
from calm_jax.config.fields import (
  DTYPES,
  IMPLEMENTATIONS,
  absent_values,
  added,
  config_class,
  news,
  rebuild,
)
from calm_jax.config.heads import (
  DiffusionHeadConfig,
  EnergyHeadConfig,
  FlowHeadConfig,
  HeadConfig,
)
from calm_jax.config.model import (
  AutoencoderConfig,
  BackboneConfig,
  ModelConfig,
  NextVectorConfig,
  TokenModelConfig,
)
from calm_jax.config.optimizer import OptimizerConfig
from calm_jax.config.posteriors import GaussianPosteriorConfig, PosteriorConfig
from calm_jax.config.vocabulary import VocabularyConfig

FORMAT_VERSION = 1  # of config.json; a run of another version is refused

__all__ = [
  "CHOSEN",
  "DTYPES",
  "FORMAT_VERSION",
  "IMPLEMENTATIONS",
  "AutoencoderConfig",
  "BackboneConfig",
  "DataConfig",
  "DiffusionHeadConfig",
  "EnergyHeadConfig",
  "ExperimentConfig",
  "FlowHeadConfig",
  "GaussianPosteriorConfig",
  "HeadConfig",
  "MeshConfig",
  "ModelConfig",
  "NextVectorConfig",
  "OptimizerConfig",
  "PosteriorConfig",
  "SourceConfig",
  "TokenModelConfig",
  "VocabularyConfig",
  "absent_values",
  "added",
  "config_class",
  "news",
  "parse_argument",
  "rebuild",
  "resolve",
]
