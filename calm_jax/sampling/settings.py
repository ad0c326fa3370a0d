"""How to sample: what users set, for any kind of model."""

import dataclasses

METHODS = ("batch", "exact", "hybrid")
# Of float32, with room for what is computed from them.
_LARGEST, _SMALLEST = 1e30, 1e-30


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
    # Also where the kind of model reads none of it: a word that means nothing
    # is a mistake.
    check_method(
      self.method, self.when_spent, self.num_candidates, self.max_draws
    )
    check_noise_scale("noise_scale", self.noise_scale)
    if self.top_k < 0 or not _SMALLEST <= self.top_p <= 1:
      raise ValueError(
        f"top_k is {self.top_k} and top_p {self.top_p}; top_k is 0 (all) or"
        f" positive, and top_p lies between {_SMALLEST} and 1 (all)."
      )


def check_method(
  method: str, when_spent: str, num_candidates: int, max_draws: int
) -> None:
  """Raises ValueError unless each may be asked for; see the settings."""
  for name, value, choices in (
    ("method", method, METHODS),
    ("when_spent", when_spent, ("stop", "batch")),
  ):
    if value not in choices:
      raise ValueError(
        f"{name} is {value!r}; choose one of {', '.join(choices)}."
      )
  for name, number in (
    ("num_candidates", num_candidates),
    ("max_draws", max_draws),
  ):
    if not 1 <= number < 2**31:
      raise ValueError(f"{name} is {number}; it is at least 1, below 2**31.")


def check_noise_scale(name: str, value: float) -> None:
  """Raises ValueError unless noise can be scaled by it."""
  if not 0 <= value <= _LARGEST:
    raise ValueError(
      f"{name} is {value}; it is 0 (greedy) or positive, up to {_LARGEST:g}."
    )


def check_token_temperature(value: float) -> None:
  """Raises ValueError unless a token model's logits can be divided by it."""
  if not _SMALLEST <= value <= _LARGEST:
    raise ValueError(
      f"temperature is {value}; it is positive, between {_SMALLEST} and"
      f" {_LARGEST:g} (top_k=1 is greedy)."
    )
