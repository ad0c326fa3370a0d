"""Chunks to latents and back, many at once."""

import functools
from typing import Any

import jax

from calm_jax.autoencoder import Autoencoder
from calm_jax.autoencoder.posterior import Posterior
from calm_jax.config import AutoencoderConfig
from calm_jax.sampling.blocks import map_blocks

_MAX_TOKENS = 4096  # whose hidden states exist at once


@functools.partial(jax.jit, static_argnums=0)
def encode_chunks(
  config: AutoencoderConfig, params: Any, tokens: jax.Array
) -> Posterior:
  """The posterior of each chunk.

  Args:
    config: resolved.
    params: of the autoencoder.
    tokens: [L, K] int32.

  Returns:
    Mean and log standard deviation, [L, Z] float32.
  """
  return _map(config, params, tokens, "encode")


@functools.partial(jax.jit, static_argnums=0)
def decode_chunks(
  config: AutoencoderConfig, params: Any, latents: jax.Array
) -> jax.Array:
  """The most likely chunk of each latent, [L, Z] float32 → [L, K] int32."""
  return _map(config, params, latents, "decode_tokens")


def _map(
  config: AutoencoderConfig, params: Any, chunks: jax.Array, method: str
) -> Any:
  apply = functools.partial(Autoencoder(config).apply, {"params": params})
  return map_blocks(
    functools.partial(apply, method=method),
    max(1, _MAX_TOKENS // config.chunk_size),
    chunks,
    num_axes=1,
  )
