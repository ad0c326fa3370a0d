"""The suite of sizes: tokens a second, and the share of the device's peak.

A training step of the next-vector models of `experiments/calm.py`, the smallest
first: a device that cannot hold the largest has said what the others need.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.random_model import random_batch
from benchmarks.timing import Roofline, Row, Work, compare_calls
from benchmarks.train import step_version
from calm_jax.config import (
  AutoencoderConfig,
  ExperimentConfig,
  MeshConfig,
  VocabularyConfig,
  resolve,
)
from calm_jax.families import build_model
from calm_jax.layers.parameters import init_params
from calm_jax.randomness import stream_key
from calm_jax.scaling.flops import training_flops_per_token
from calm_jax.training.sharding import make_mesh
from calm_jax.training.step import Program
from experiments import calm


class _Size(NamedTuple):
  names: tuple[str, ...]  # of experiments/calm.py
  vocab_size: int  # V
  num_rows: int
  num_chunks: int


_SIZES = {
  "tiny": _Size(("tiny",), 300, 2, 8),
  "cpu": _Size(("tiny",), 8192, 4, 128),
  "accelerator": _Size(("s", "m", "l"), 128256, 8, 2048),
}


def run(
  size: str, seed: int, roofline: Roofline, seconds: float
) -> Iterator[Row]:
  """Yields a row for the step of each size on one device.

  FLOPs are the paper's, see `scaling.flops`: `roofline_share` is of the matrix
  products that the device reached in this run, `mfu` of its maker's figure.
  """
  letters = _SIZES[size]
  key = stream_key(seed, "benchmark")
  mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
  for name in letters.names:
    config = _config(name, letters)
    model = config.model
    batch = random_batch(key, letters.num_rows, letters.num_chunks, config)
    autoencoder = build_model(config.autoencoder)
    example = jnp.zeros((1, 1, model.chunk_size), jnp.int32)
    frozen = jax.jit(
      lambda key, example, model=autoencoder: init_params(model, key, example)
    )(key, example)
    version = step_version(Program(config, mesh), frozen, jax.device_put(batch))
    parts = training_flops_per_token(
      model, num_positions=letters.num_chunks, autoencoder=config.autoencoder
    )
    num_flops = sum(parts.values()) * version.num_tokens
    yield from compare_calls(
      f"step of calm.py:{name}",
      {_describe(config): version._replace(num_flops=num_flops)},
      seconds,
      roofline.seconds(Work(matmul_flops=num_flops)),
    )
    del version, frozen  # the next size needs their memory


def _config(name: str, size: _Size) -> ExperimentConfig:
  config = calm.get_config(name)
  config.mesh = MeshConfig(data=1)
  config.data.batch_size = size.num_rows
  config.data.row_length = size.num_chunks * config.model.chunk_size
  vocabulary = VocabularyConfig(size=size.vocab_size, begin_id=0, end_id=1)
  autoencoder = AutoencoderConfig(dtype=config.model.dtype)
  autoencoder.fill(vocabulary, None)
  return resolve(config, vocabulary=vocabulary, autoencoder=autoencoder)


def _describe(config: ExperimentConfig) -> str:
  data = config.data
  return f"{data.batch_size} × {data.row_length} tokens, {config.model.dtype}"
