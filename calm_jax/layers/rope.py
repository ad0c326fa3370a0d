"""Rotary position embeddings, half-split (arXiv:2104.09864)."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Rotation(NamedTuple):
  """Cosines and sines of the angles, [B or 1, L, d/2] float32."""

  cos: jax.Array
  sin: jax.Array


def rotation(positions: jax.Array, size: int, *, theta: float) -> Rotation:
  """By which angles the vectors at these positions are turned.

  Pair j turns by position · θ^(−2j/d). All layers turn by the same angles, so
  they are computed once for all of them.

  Args:
    positions: [B or 1, L] int32.
    size: d, of a head; even.
    theta: θ, base of the frequencies.

  Returns:
    Cosines and sines, computed in float32.
  """
  chex.assert_rank(positions, 2)
  half = size // 2
  frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
  return Rotation(jnp.cos(angles), jnp.sin(angles))


def rope(x: jax.Array, rotation: Rotation) -> jax.Array:
  """Turns the pairs (x_j, x_{j + d/2}).

  Args:
    x: [B, L, H, d], queries or keys.
    rotation: of the L positions.

  Returns:
    [B, L, H, d] in the dtype of x; products in float32.
  """
  chex.assert_rank(x, 4)
  chex.assert_axis_dimension(rotation.cos, 1, x.shape[1])
  cos, sin = (it[:, :, None] for it in rotation)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return rotated.astype(x.dtype)
