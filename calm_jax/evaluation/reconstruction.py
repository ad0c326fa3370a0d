"""How well an autoencoder gives its chunks back (paper §2)."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from calm_jax.autoencoder import Autoencoder
from calm_jax.config import AutoencoderConfig
from calm_jax.data.batch import Batch, chunk_targets
from calm_jax.evaluation.windows import COUNT, Columns
from calm_jax.losses.reconstruction import kl_divergence
from calm_jax.randomness import position_keys, stream_key
from calm_jax.sampling import rows
from calm_jax.sampling.blocks import map_blocks

_MAX_CHUNKS = 4096  # decoded at once


def reconstruction_columns(
  config: AutoencoderConfig,
  params: Any,
  batches: Iterable[Batch],
  seed: int,
  closing_id: int | None = None,
  mesh: Mesh | None = None,
) -> tuple[Columns, np.ndarray]:
  """Scores an autoencoder on every chunk that is wholly real text.

  Args:
    config: resolved.
    params: of the autoencoder.
    batches: rows.
    seed: of the latents' noise.
    closing_id: see `chunk_targets`; closed chunks are read and compared.
    mesh: over which rows are shared out; all its processes call this together.

  Returns:
    Sums over the chunks of each window, [W] float64: `count`,
    `token_accuracy` and `chunk_accuracy` (shares of tokens and of whole chunks
    that come back from a sampled latent; with `_from_mean` from the
    posterior's mean), `posterior_std` (mean over the dimensions), `kl` (nats a
    chunk, summed over the dimensions). And the posterior's std of each
    dimension, [Z], mean over all chunks.
  """
  with rows.on(mesh):
    key = stream_key(seed, "evaluation_posterior")
    parts = [
      jax.device_get(
        _score(config, closing_id, params, rows.place(batch, mesh), key, mesh)
      )
      for batch in batches
    ]
    columns = {
      name: np.concatenate([part[name] for part in parts]).astype(np.float64)
      for name in parts[0]
    }
    stds = columns.pop("stds").sum(axis=0)  # [Z]
    return columns, stds / max(columns[COUNT].sum(), 1)


@functools.partial(jax.jit, static_argnums=(0, 1, 5))
def _score(
  config: AutoencoderConfig,
  closing_id: int | None,
  params: Any,
  batch: Batch,
  key: jax.Array,
  mesh: Mesh | None,
) -> dict[str, jax.Array]:
  call = functools.partial(_score_rows, config, closing_id)
  found = rows.over_rows(call, mesh)((params, key), batch)
  return rows.everywhere(found, mesh)


def _score_rows(
  config: AutoencoderConfig,
  closing_id: int | None,
  shared: tuple[Any, jax.Array],
  batch: Batch,
) -> dict[str, jax.Array]:
  """Sums for each row of a batch: [B] float32, and `stds` [B, Z]."""
  params, key = shared
  targets = chunk_targets(batch, closing_id)
  apply = functools.partial(Autoencoder(config).apply, {"params": params})
  chunk_ids = jnp.arange(batch.tokens.shape[1], dtype=jnp.uint32)
  keys = position_keys(key, batch.row_ids, chunk_ids)

  def call(block):
    tokens, keys = block  # [n, K], [n]
    posterior = apply(tokens, method="encode")
    draw = lambda key: jax.random.normal(key, (config.latent_size,))
    sampled = posterior.sample(jax.vmap(draw)(keys))
    stds = jnp.exp(posterior.log_std)
    scores = {
      "stds": stds,
      "posterior_std": stds.mean(axis=-1),
      "kl": kl_divergence(*posterior).sum(axis=-1),
    }
    for suffix, latents in (("", sampled), ("_from_mean", posterior.mean)):
      is_right = apply(latents, method="decode_tokens") == tokens
      scores |= {
        f"token_accuracy{suffix}": is_right.mean(axis=-1, dtype=jnp.float32),
        f"chunk_accuracy{suffix}": is_right.all(axis=-1).astype(jnp.float32),
      }
    return scores

  size = max(1, _MAX_CHUNKS // config.chunk_size)
  scores = map_blocks(call, size, (targets.tokens, keys), num_axes=2)
  is_counted = jnp.all(targets.mask, axis=-1)  # [B, L]

  def total(score: jax.Array) -> jax.Array:
    mask = jnp.expand_dims(is_counted, range(2, score.ndim))
    return jnp.sum(jnp.where(mask, score, 0), axis=1)

  return {COUNT: is_counted.sum(axis=-1), **jax.tree.map(total, scores)}
