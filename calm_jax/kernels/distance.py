"""How far two points lie apart: what every energy score sums.

A distance ρ makes the score 2·mean ρ(x − y) − mean ρ(x − x′) proper if it is of
negative type; `DISTANCES` is the table of those there are. A new one is a line
there: its plain definition, and its value with its slope for the kernels.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Distance:
  """One distance: which, and its parameter. Decides what is compiled."""

  kind: str
  parameter: float

  def __post_init__(self):
    if self.kind not in DISTANCES:
      raise ValueError(
        f"the score is {self.kind!r}; choose one of {', '.join(DISTANCES)}."
      )
    DISTANCES[self.kind].check(self.parameter)


class _Kind(NamedTuple):
  """What is known of one kind; s = ‖d‖² is positive."""

  check: Callable[[float], None]  # raises ValueError for a parameter
  value: Callable[[jax.Array, float], jax.Array]  # s, parameter → ρ
  # s, parameter → ρ, and w for which w·d is the derivative of ρ by d
  value_and_weight: Callable[[jax.Array, float], tuple[jax.Array, jax.Array]]


def distances(squares: jax.Array, distance: Distance) -> jax.Array:
  """ρ of squared norms ‖d‖², [...]: the plain definition.

  0 where the norm is 0, and there without a gradient: the score has no slope,
  only a corner. NaN stays NaN.
  """
  coincides = _coincides(squares)
  # The inner `where` keeps the infinite slope of a root at 0 out of the
  # backward pass, which would multiply it by 0 and get NaN.
  squares = jnp.where(coincides, 1.0, squares)
  values = DISTANCES[distance.kind].value(squares, distance.parameter)
  return jnp.where(coincides, 0.0, values)


def values_and_weights(
  difference: jax.Array,
  distance: Distance,
  *,
  axis: int,
  keepdims: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """ρ(d), and w for which w·d is its derivative by d: for the kernels.

  Both are 0 where d is 0, and NaN where it is.

  Args:
    difference: d, float32.
    distance: ρ.
    axis: over which the norm is taken.
    keepdims: whether the results keep it, with size 1.

  Returns:
    Two arrays of the shape of `difference` without `axis`.
  """
  squares = jnp.sum(jnp.square(difference), axis=axis, keepdims=keepdims)
  coincides = _coincides(squares)
  squares = jnp.where(coincides, 1.0, squares)
  kind = DISTANCES[distance.kind]
  values, weights = kind.value_and_weight(squares, distance.parameter)
  return jnp.where(coincides, 0.0, values), jnp.where(coincides, 0.0, weights)


def _coincides(squares: jax.Array) -> jax.Array:
  """Whether ‖d‖² is 0, which NaN is not: a score of NaN has to be NaN."""
  # Not by `> 0`, nor by `!= 0`, which in TPU kernels is false of NaN, too.
  return squares == 0


def _check_alpha(alpha: float) -> None:
  if not 0 < alpha < 2:
    raise ValueError(
      f"alpha is {alpha}; the energy score is strictly proper only for"
      " 0 < alpha < 2. The paper uses 1."
    )


def _power(squares: jax.Array, alpha: float) -> jax.Array:
  """‖d‖^α (paper §3.2, eq. 9)."""
  return squares ** (alpha / 2)


def _power_and_weight(
  squares: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
  """‖d‖^α and α‖d‖^(α−2)."""
  if alpha == 1:
    weights = jax.lax.rsqrt(squares)
  else:
    weights = jnp.exp((alpha / 2 - 1) * jnp.log(squares))
  return squares * weights, alpha * weights


def _check_bandwidth(bandwidth: float) -> None:
  if not 0 < bandwidth < float("inf"):
    raise ValueError(
      f"bandwidth is {bandwidth}; a kernel score needs a positive one, about as"
      " long as the distances it compares."
    )


def _gaussian(squares: jax.Array, bandwidth: float) -> jax.Array:
  """1 − k(d) with k(d) = exp(−‖d‖²/2h²) (Gneiting and Raftery 2007, §5.1)."""
  return -jnp.expm1(-squares / (2 * bandwidth**2))


def _gaussian_and_weight(
  squares: jax.Array, bandwidth: float
) -> tuple[jax.Array, jax.Array]:
  """1 − k and k/h²."""
  # 1 − e^(−2t) = 2·tanh t / (1 + tanh t) keeps the digits of a small t, and
  # every kernel's compiler knows a tanh.
  tanh = jnp.tanh(squares / (4 * bandwidth**2))
  kernel = jnp.exp(-squares / (2 * bandwidth**2))
  return 2 * tanh / (1 + tanh), kernel / bandwidth**2


def _inverse_multiquadric(squares: jax.Array, bandwidth: float) -> jax.Array:
  """1 − k(d) with k(d) = (1 + ‖d‖²/h²)^(−1/2)."""
  return -jnp.expm1(-0.5 * jnp.log1p(squares / bandwidth**2))


def _inverse_multiquadric_and_weight(
  squares: jax.Array, bandwidth: float
) -> tuple[jax.Array, jax.Array]:
  """1 − k and k³/h²."""
  ratio = squares / bandwidth**2
  kernel = jax.lax.rsqrt(1 + ratio)
  # 1 − k = k²·s/h² / (1 + k), which keeps the digits of a small s.
  return kernel**2 * ratio / (1 + kernel), kernel**3 / bandwidth**2


DISTANCES = {
  "energy": _Kind(_check_alpha, _power, _power_and_weight),
  "gaussian": _Kind(_check_bandwidth, _gaussian, _gaussian_and_weight),
  "inverse_multiquadric": _Kind(
    _check_bandwidth, _inverse_multiquadric, _inverse_multiquadric_and_weight
  ),
}
PAPER = Distance("energy", 1.0)
