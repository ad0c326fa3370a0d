"""The Brier score of a model that can only be sampled (paper §4).

Brier(P, y) = 2·P(y) − Σ_x P(x)² is estimated without bias from independent
samples: P(y) by the *accuracy*, the share of samples that equal y, and
Σ_x P(x)² by the *collision*, the share of pairs of samples that agree. For
Brier-n an outcome is the next n tokens.
"""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np


def check_samples(num_samples: int, *, noise_scale: float = 1.0) -> None:
  """Refuses what would give a number without meaning.

  Args:
    num_samples: S, draws a position.
    noise_scale: of the head.

  Raises:
    ValueError: for a single sample, greedy decoding or no number.
  """
  if num_samples < 2:
    raise ValueError(
      f"num_samples is {num_samples}; the Brier score compares independent"
      " samples of a position with each other and needs at least 2."
    )
  if noise_scale == 0:
    raise ValueError(
      "greedy decoding cannot be scored: all samples of a position coincide,"
      " so the collision part is 1 whatever the model knows; sample instead."
    )
  if not 0 < noise_scale < math.inf:
    raise ValueError(f"noise_scale is {noise_scale}; it is positive.")


def accuracy(tokens: jax.Array, labels: jax.Array) -> jax.Array:
  """Share of the samples whose first n tokens are right, n = 1 … K.

  Args:
    tokens: [..., S, K] int32, independent samples.
    labels: [..., K] int32.

  Returns:
    [..., K] float32, unbiased for P(y_1 … y_n).
  """
  chex.assert_shape(labels, tokens.shape[:-2] + tokens.shape[-1:])
  is_right = (tokens == labels[..., None, :]).astype(jnp.int32)
  is_prefix_right = jnp.cumprod(is_right, axis=-1)
  return jnp.mean(is_prefix_right, axis=-2, dtype=jnp.float32)


def agreeing_pairs(tokens: jax.Array, is_pair: jax.Array) -> list[jax.Array]:
  """Which pairs of samples agree on their first n tokens, n = 1 … K.

  Args:
    tokens: [..., S, K] int32.
    is_pair: [..., S, S] bool, the pairs that are looked at.

  Returns:
    K arrays [..., S, S] bool, each contained in the one before.
  """
  result = []
  for n in range(tokens.shape[-1]):
    column = tokens[..., n]
    is_pair = is_pair & (column[..., :, None] == column[..., None, :])
    result.append(is_pair)
  return result


def pair_share(is_pair: jax.Array) -> jax.Array:
  """Share of the S(S−1) ordered pairs: [..., S, S] bool → [...] float32.

  Over all pairs that agree this is the U-statistic of Σ_x P(x)²; with S = 2 it
  is the two-sample estimate I{x₁ = x₂}.
  """
  num_samples = is_pair.shape[-1]
  count = jnp.sum(is_pair, axis=(-2, -1), dtype=jnp.float32)
  return count / (num_samples * (num_samples - 1))


def all_pairs(num_samples: int) -> np.ndarray:
  """[S, S] bool: pairs of different samples."""
  return ~np.eye(num_samples, dtype=bool)


def brier_scores(accuracy: np.ndarray, collision: np.ndarray) -> np.ndarray:
  """2·accuracy − collision: Brier-n as a fraction, any shape."""
  return 2 * accuracy - collision


def brier_lm(scores: np.ndarray) -> np.ndarray:
  """100 · (Π_{n=1..4} max(Brier-n, 0))^{1/4}: [..., 4] → [...] (paper §4.2)."""
  return 100 * np.prod(np.maximum(scores, 0), axis=-1) ** 0.25
