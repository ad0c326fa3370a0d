"""How to sample: what users set, for any kind of model."""

import dataclasses
import math


@dataclasses.dataclass(kw_only=True, frozen=True)
class SamplingSettings:
  """How to sample; see `TemperatureSettings` for next-vector models."""

  temperature: float = 1.0  # T; next-vector models take 0 < T <= 1
  method: str = "batch"
  num_candidates: int = 200
  max_draws: int = 20_000
  when_spent: str = "stop"
  noise_scale: float = 1.0  # next-vector: factor on the head's noise, a cheap
  # substitute for a temperature; 0 is greedy
  top_k: int = 0  # token models: the k most likely tokens; 0: all
  top_p: float = 1.0  # token models: the most likely of that probability

  def __post_init__(self):
    if not 0 <= self.noise_scale < math.inf:
      raise ValueError(
        f"noise_scale is {self.noise_scale}; it is 0 (greedy) or positive."
      )
    if self.top_k < 0 or not 0 < self.top_p <= 1:
      raise ValueError(
        f"top_k is {self.top_k} and top_p {self.top_p}; top_k is 0 (all) or"
        " positive, and 0 < top_p <= 1."
      )
