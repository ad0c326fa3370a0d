"""What all models share that predict the chunk that comes next."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from calm_jax.config import ExperimentConfig
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from calm_jax.evaluation.windows import summarise
from calm_jax.families.family import Family, ScoresFn


class PredictingFamily(Family):
  """A model whose hidden state of chunk i predicts chunk i + 1."""

  def make_scores_fn(
    self,
    config: ExperimentConfig,
    settings: PredictionSettings,
    mesh: Mesh | None = None,
  ) -> ScoresFn:
    """Brier-1 … 4 and BrierLM, with what else `settings` asks for."""
    sampler_fn = self.sampler_fn(config)
    inside_segments = dataclasses.replace(config.model, use_segment_mask=True)
    segment_sampler_fn = self.sampler_fn(
      dataclasses.replace(config, model=inside_segments)
    )

    def scores_fn(params, autoencoder, batches):
      bound = self.bind_params(
        params, autoencoder, noise_scale=settings.noise_scale
      )
      columns = prediction_columns(
        sampler_fn, bound, batches, settings, segment_sampler_fn, mesh
      )
      scores, warnings = summarise(columns)
      return scores | {"warnings": warnings}

    return scores_fn


def next_chunk(values: jax.Array) -> jax.Array:
  """What stands at i + 1, along L; the last has no meaning."""
  return jnp.roll(values, -1, axis=1)


def next_is_real(mask: jax.Array) -> jax.Array:
  """[B, L] bool: there is a next chunk, and all of its mask is True."""
  is_real = next_chunk(jnp.all(mask, axis=-1))
  is_last = jnp.arange(is_real.shape[1]) == is_real.shape[1] - 1
  return is_real & ~is_last[None]
