"""‖d‖^α and its slope, with none at zero: what every energy score sums."""

import jax
import jax.numpy as jnp


def powers_and_weights(
  difference: jax.Array, alpha: float, *, axis: int, keepdims: bool = False
) -> tuple[jax.Array, jax.Array]:
  """‖d‖^α and α‖d‖^(α−2), which times d is the derivative of the former by d.

  Both are 0 where d is 0: there the score has no slope, only a corner.

  Args:
    difference: d, float32.
    alpha: exponent.
    axis: over which the norm is taken.
    keepdims: whether the results keep it, with size 1.

  Returns:
    Two arrays of the shape of `difference` without `axis`.
  """
  squares = jnp.sum(jnp.square(difference), axis=axis, keepdims=keepdims)
  is_apart = squares > 0
  squares = jnp.where(is_apart, squares, 1.0)
  if alpha == 1:
    weights = jax.lax.rsqrt(squares)
  else:
    weights = jnp.exp((alpha / 2 - 1) * jnp.log(squares))
  weights = jnp.where(is_apart, weights, 0.0)
  return squares * weights, alpha * weights
