"""Rotary position embeddings, half-split (arXiv:2104.09864)."""

import chex
import jax
import jax.numpy as jnp


def rope(x: jax.Array, positions: jax.Array, *, theta: float) -> jax.Array:
  """Rotates the pair (x_j, x_{j + d/2}) by the angle position · θ^(−2j/d).

  Args:
    x: [B, L, H, d], queries or keys; d is even.
    positions: [B, L] int32.
    theta: base of the frequencies.

  Returns:
    [B, L, H, d] in the dtype of x; angles and products in float32.
  """
  chex.assert_rank([x, positions], [4, 2])
  half = x.shape[-1] // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x.dtype)
