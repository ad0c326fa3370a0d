"""The autoencoder's regulariser: KL divergence to N(0, 1), clipped below."""

import jax
import jax.numpy as jnp


def kl_divergence(mean: jax.Array, log_std: jax.Array) -> jax.Array:
  """KL of N(mean, std²) from N(0, 1), dimension by dimension.

  KL_z = ½(mean² + std² − 1 − 2·log_std) (paper §2.2).

  Args:
    mean: [..., Z].
    log_std: [..., Z], nats.

  Returns:
    [..., Z] float32, nats, never negative.
  """
  mean, log_std = mean.astype(jnp.float32), log_std.astype(jnp.float32)
  # expm1 keeps the digits of std² − 1 near the prior, where std is almost 1.
  excess = jnp.expm1(2.0 * log_std) - 2.0 * log_std
  return 0.5 * (jnp.square(mean) + excess)


def clipped_kl(mean: jax.Array, log_std: jax.Array, floor: float) -> jax.Array:
  """Σ_z max(floor, KL_z): a dimension below the floor costs a constant.

  Without the floor most dimensions collapse onto the prior (paper §2.2); below
  it a dimension has no gradient, so it is free to carry information.

  Args:
    mean: [..., Z].
    log_std: [..., Z], nats.
    floor: λ_KL, nats for each dimension.

  Returns:
    [...] float32, nats a chunk.
  """
  divergence = kl_divergence(mean, log_std)
  return jnp.sum(jnp.maximum(divergence, floor), axis=-1)
