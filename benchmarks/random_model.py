"""Models with random parameters and rows of random ids for them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.config import (
  AutoencoderConfig,
  DataConfig,
  ExperimentConfig,
  NextVectorConfig,
  VocabularyConfig,
)
from calm_jax.data.batch import Batch
from calm_jax.families import build_model, family_of
from calm_jax.families.rounding import round_run
from calm_jax.layers.parameters import init_params
from calm_jax.randomness import position_keys

_NUM_PROBES = 64  # draws from which agreement is estimated
_NUM_HALVINGS = 24


class ModelSize(NamedTuple):
  """Letters of the specification; the heads are 64 wide."""

  vocab_size: int  # V
  hidden_size: int  # D, and E up to 512
  num_layers: int
  latent_size: int  # Z
  dtype: str


MODEL_SIZES = {
  "tiny": ModelSize(300, 64, 1, 8, "float32"),
  "cpu": ModelSize(8192, 256, 6, 128, "float32"),
  "accelerator": ModelSize(128256, 1024, 16, 128, "bfloat16"),
}


class RandomModel(NamedTuple):
  """What `generate` and `prediction_columns` take."""

  config: ExperimentConfig
  sampler_fn: Callable[[Any], Any]
  params: dict[str, Any]


def make_config(
  size: ModelSize,
  *,
  chunk_size: int = 4,
  num_chunks: int = 64,
  num_rows: int = 1,
  vocabulary_implementation: str = "auto",
) -> ExperimentConfig:
  """A next-vector run of this size with its autoencoder."""
  vocabulary = VocabularyConfig(size=size.vocab_size, begin_id=0, end_id=1)
  width = min(size.hidden_size, 512)
  autoencoder = AutoencoderConfig(
    vocabulary=vocabulary,
    chunk_size=chunk_size,
    latent_size=size.latent_size,
    hidden_size=width,
    ffn_size=5 * width // 2,
    dtype=size.dtype,
    vocabulary_implementation=vocabulary_implementation,
  )
  model = NextVectorConfig(
    vocabulary=vocabulary,
    chunk_size=chunk_size,
    latent_size=size.latent_size,
    hidden_size=size.hidden_size,
    ffn_size=43 * size.hidden_size // 16,
    num_layers=size.num_layers,
    num_heads=size.hidden_size // 64,
    dtype=size.dtype,
  )
  data = DataConfig(row_length=num_chunks * chunk_size, batch_size=num_rows)
  return ExperimentConfig(model=model, autoencoder=autoencoder, data=data)


def random_batch(key, num_rows, num_chunks, config) -> Batch:
  """Rows of one document each, nothing masked."""
  shape = (num_rows, num_chunks, config.model.chunk_size)
  tokens = jax.random.randint(key, shape, 2, config.model.vocabulary.size)
  return Batch(
    tokens=np.asarray(tokens, np.int32),
    token_mask=np.ones(shape, bool),
    segment_ids=np.zeros(shape[:2], np.int32),
    row_ids=np.arange(num_rows, dtype=np.uint32),
  )


def random_model(
  config: ExperimentConfig, key: jax.Array, agreement: float
) -> RandomModel:
  """A model that draws the same chunk twice with about this probability.

  Its parameters are kept as those of a run are for evaluation and generation,
  see `round_params`.

  How long sampling and scoring take depends on nothing else a model has
  learned. All contexts get the same distribution, up to what random parameters
  make of them, and the end id is never drawn.

  Args:
    config: from `make_config`.
    key: of the parameters.
    agreement: probability, between 0 and 1.

  Returns:
    The model.
  """
  model, autoencoder = build_model(config.model), None
  keys = jax.random.split(key, 5)
  example = jnp.zeros((1, 1, config.model.chunk_size), jnp.int32)
  params = init_params(model, keys[0], example, keys[:1][None])
  autoencoder = init_params(build_model(config.autoencoder), keys[1], example)
  table = autoencoder["embedding"]["embedding"]
  end_id = config.model.vocabulary.end_id
  autoencoder["embedding"]["embedding"] = table.at[end_id].set(0.0)
  params, autoencoder = round_run(config, params, autoencoder)
  outer = params["head"]["outer"]
  # What all draws share, against what is different in each.
  direction = jax.random.normal(keys[2], outer["bias"].shape)
  outer["kernel"] = 0.02 * jax.random.normal(keys[3], outer["kernel"].shape)
  sampler_fn = family_of(config.model).sampler_fn(config)
  bound = family_of(config.model).bind_params(params, autoencoder)
  hidden = jax.random.normal(keys[4], (16, config.model.hidden_size))
  ids = jnp.arange(16, dtype=jnp.uint32)
  probe_keys = position_keys(keys[4], ids, ids[:1])[:, 0]

  @jax.jit
  def share(bound, bias):
    head = {**bound["model"]["head"]}
    head["outer"] = {**head["outer"], "bias": bias * direction}
    bound = {**bound, "model": {**bound["model"], "head": head}}
    probes = jnp.arange(_NUM_PROBES, dtype=jnp.uint32)
    chunks = sampler_fn(bound).draw(hidden, probe_keys, probes)
    is_same = jnp.all(chunks[:, :, None] == chunks[:, None], axis=-1)
    num_pairs = _NUM_PROBES * (_NUM_PROBES - 1)
    equal = jnp.sum(is_same, axis=(1, 2)) - _NUM_PROBES
    return jnp.mean(equal / num_pairs)

  low, high = 1e-4, 1e4
  for _ in range(_NUM_HALVINGS):
    middle = (low * high) ** 0.5
    if share(bound, middle) < agreement:
      low = middle
    else:
      high = middle
  outer["bias"] = high * direction
  return RandomModel(config, sampler_fn, bound)
