"""What a temperature asks of a sampler that sees no probabilities.

A *sample* is a whole chunk of K tokens. At temperature T the wanted
distribution is P_T(x) ∝ P(x)^{1/T}. Both methods, `exact` and `batch`, work
with the exponent split into 1/T = n + a, n whole and 0 ≤ a < 1.
"""

import math
from typing import NamedTuple

import numpy as np

# A temperature within 0.1 % of 1/n counts as 1/n. People write 0.333 for one
# third, and the leftover a = 0.003 would cost the exact method Σ_x P^{1/T−1}
# further draws for an exponent nobody asked for: next to T = 1 as many as
# there are chunks.
_RELATIVE_TOLERANCE = 1e-3


class Exponent(NamedTuple):
  """1/T = whole + fraction."""

  whole: int  # n ≥ 1
  fraction: float  # a in [0, 1)

  @property
  def value(self) -> float:
    return self.whole + self.fraction


def split_temperature(temperature: float) -> Exponent:
  """Splits 1/T into its whole and fractional part (paper §5.1).

  Args:
    temperature: T in (0, 1]. Within 0.1 % of 1/n it is taken as 1/n.

  Returns:
    The exponent.

  Raises:
    ValueError: if the temperature is outside (0, 1], or 1/T is no int32.
  """
  if not 0 < temperature <= 1:
    raise ValueError(
      f"temperature is {temperature}; a model without likelihoods is sampled"
      " at 0 < temperature <= 1 (1 leaves its distribution as it is)."
    )
  if 1 / temperature >= 2**31 - 1:
    raise ValueError(
      f"temperature is {temperature}; 1/temperature is a number below 2**31,"
      " so give a temperature that is not so small."
    )
  nearest = round(1 / temperature)
  if abs(temperature * nearest - 1) <= _RELATIVE_TOLERANCE + 1e-9:
    return Exponent(nearest, 0.0)
  whole = math.floor(1 / temperature)
  return Exponent(whole, 1 / temperature - whole)


def expected_draws(probabilities: np.ndarray, temperature: float) -> float:
  """Mean number of draws of the exact method (paper §5.1).

      [n + I(a>0) Σ_x P(x)^{1/T−1}] / Σ_x P(x)^{1/T}

  Args:
    probabilities: P, [X], of every possible chunk.
    temperature: T in (0, 1].

  Returns:
    Draws for one accepted chunk. It grows without bound at low temperature,
    and just below T = 1 up to the number of chunks, V^K.
  """
  whole, fraction = exponent = split_temperature(temperature)
  p = np.asarray(probabilities, np.float64)
  p = p[p > 0]
  tail = np.sum(p ** (exponent.value - 1)) if fraction > 0 else 0.0
  return float((whole + tail) / np.sum(p**exponent.value))
