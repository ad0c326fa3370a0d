"""Runs of tiny models with perturbed parameters, as if loaded."""

import dataclasses

import jax
import jax.numpy as jnp
from etils import epath

from calm_jax.autoencoder import Autoencoder
from calm_jax.checkpoint.checkpointer import Checkpointer
from calm_jax.checkpoint.run_directory import (
  LoadedRun,
  RunDirectory,
  content_hash,
)
from calm_jax.config import (
  AutoencoderConfig,
  DataConfig,
  EnergyHeadConfig,
  ExperimentConfig,
  NextVectorConfig,
  TokenModelConfig,
)
from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.families import build_model, param_axes
from calm_jax.layers.parameters import init_params
from calm_jax.model import NextVectorModel, TokenModel
from calm_jax.randomness import position_keys, stream_key
from calm_jax.training import sharding
from calm_jax.training.state import TrainState
from tests.cached import cached
from tests.perturbation import perturb

_TOKENIZER = ByteTokenizer()
_BACKBONE = {
  "vocabulary": _TOKENIZER.vocabulary,
  "hidden_size": 32,
  "ffn_size": 48,
  "num_layers": 2,
  "num_heads": 4,
  "num_kv_heads": 2,
}


@cached
def calm_run(chunk_size=4, num_chunks=40, scale=0.3, **changes):
  """A next-vector model with its autoencoder."""
  autoencoder_config = AutoencoderConfig(
    vocabulary=_TOKENIZER.vocabulary,
    chunk_size=chunk_size,
    latent_size=8,
    hidden_size=16,
    ffn_size=24,
  )
  head = EnergyHeadConfig(noise_size=8, num_samples=3, num_targets=4)
  config = NextVectorConfig(
    **_BACKBONE,
    chunk_size=chunk_size,
    latent_size=8,
    **{"head": head, **changes},
  )
  tokens = jnp.zeros((1, 2, chunk_size), jnp.int32)
  ids = jnp.arange(2, dtype=jnp.uint32)
  keys = position_keys(stream_key(0, "test"), ids[:1], ids)
  latents = jnp.zeros((1, 2, 8))
  key = jax.random.key(0)
  model = NextVectorModel(config)
  params = init_params(model, key, tokens, keys, latents)
  autoencoder = init_params(Autoencoder(autoencoder_config), key, tokens)
  return _loaded(
    ExperimentConfig(
      model=config,
      autoencoder=autoencoder_config,
      data=DataConfig(row_length=num_chunks * chunk_size),
    ),
    perturb(params, scale=scale),
    perturb(autoencoder, seed=2, scale=scale),
  )


@cached
def token_run(num_chunks=40, scale=0.2, **changes):
  """A token model."""
  config = TokenModelConfig(**_BACKBONE, **changes)
  params = init_params(
    TokenModel(config), jax.random.key(0), jnp.zeros((1, 2, 1), jnp.int32)
  )
  return _loaded(
    ExperimentConfig(model=config, data=DataConfig(row_length=num_chunks)),
    perturb(params, scale=scale),
    None,
  )


@cached
def autoencoder_run(chunk_size=4):
  """An autoencoder alone."""
  run = calm_run(chunk_size)
  return _loaded(
    ExperimentConfig(model=run.config.autoencoder, data=run.config.data),
    run.autoencoder,
    None,
  )


def on_mesh(run, mesh):
  """The run as `load_run` gives it on a mesh."""
  axes = param_axes(build_model(run.config.model))
  places = sharding.place_params(mesh, run.params, axes).shardings
  return dataclasses.replace(
    run,
    mesh=mesh,
    params=jax.device_put(run.params, places),
    autoencoder=jax.device_put(run.autoencoder, sharding.replicated(mesh)),
  )


def _loaded(config, params, autoencoder):
  hashes = {"tokenizer": _TOKENIZER.content_hash, "data": "0" * 64}
  if autoencoder is not None:
    hashes["autoencoder"] = "1" * 64
  return LoadedRun(
    path=epath.Path("tiny"),
    config=config,
    params=params,
    autoencoder=autoencoder,
    tokenizer=_TOKENIZER,
    step=7,
    hashes=hashes,
  )


def save_run(run, path):
  """Writes a run that is in memory as a run directory."""
  directory = RunDirectory(path)
  directory.create(run.config, run.tokenizer, run.autoencoder)
  hashes = {"tokenizer": run.tokenizer.content_hash, "data": "0" * 64}
  if run.autoencoder is not None:
    hashes["autoencoder"] = content_hash(run.autoencoder)
  checkpointer = Checkpointer(
    directory, hashes=hashes, max_checkpoints=1, keep_interval=0
  )
  state = TrainState(jnp.int32(run.step), run.params, {"count": jnp.zeros(1)})
  checkpointer.save(run.step, state, {})
  checkpointer.close()
