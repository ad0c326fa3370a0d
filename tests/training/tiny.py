"""The smallest runs of all stages, and batches for them."""

import jax
import numpy as np

from calm_jax import config
from calm_jax.data.batch import Batch
from calm_jax.families import build_model, param_shapes

VOCABULARY = config.VocabularyConfig(
  size=40, begin_id=38, end_id=39, unscored_ids=(38,)
)
CHUNK_SIZE = 2
STAGES = ("autoencoder", "next_vector", "token")


def experiment(stage, *, batch_size=8, num_chunks=8, **changes):
  """A resolved config; `changes` are fields of `ExperimentConfig`."""
  autoencoder = config.AutoencoderConfig(
    vocabulary=VOCABULARY,
    chunk_size=CHUNK_SIZE,
    latent_size=8,
    hidden_size=16,
    ffn_size=32,
  )
  backbone = {
    "vocabulary": VOCABULARY,
    "hidden_size": 16,
    "ffn_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
  }
  model = {
    "autoencoder": autoencoder,
    "next_vector": config.NextVectorConfig(
      **backbone,
      chunk_size=CHUNK_SIZE,
      latent_size=8,
      head=config.EnergyHeadConfig(
        num_mlp_layers=1, num_samples=4, num_targets=6, noise_size=4
      ),
    ),
    "token": config.TokenModelConfig(**backbone),
  }[stage]
  return config.ExperimentConfig(
    model=model,
    autoencoder=autoencoder if stage == "next_vector" else None,
    data=config.DataConfig(
      row_length=num_chunks * model.chunk_size, batch_size=batch_size
    ),
    mesh=changes.pop("mesh", config.MeshConfig(data=1)),
    **changes,
  )


def batch(experiment, seed=0):
  """Random rows with a fill, begin ids and a half-masked row."""
  rng = np.random.default_rng(seed)
  size, length = experiment.data.batch_size, experiment.num_chunks
  shape = (size, length, experiment.model.chunk_size)
  tokens = rng.integers(0, 38, shape, dtype=np.int32)
  mask = rng.random(shape) < 0.9
  mask[-1, length // 2 :] = False
  tokens[0, 1, 0] = VOCABULARY.begin_id
  mask[0, 1, 0] = False
  segments = np.cumsum(rng.random((size, length)) < 0.2, axis=1, dtype=np.int32)
  return Batch(tokens, mask, segments, np.arange(size, dtype=np.uint32))


def params(model_config, seed=1):
  """NumPy parameters, all of them random, zero-initialised ones included."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    centre = 1.0 if path[-1].key == "scale" else 0.0
    return np.float32(rng.normal(centre, 0.1, leaf.shape))

  shapes = param_shapes(build_model(model_config))
  return jax.tree_util.tree_map_with_path(draw, shapes)
