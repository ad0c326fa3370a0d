"""What `explore` measures: settings without JAX, for flags."""

import dataclasses

from calm_jax.sampling.settings import (
  check_noise_scale,
  check_token_temperature,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExploreSettings:
  """Which points are measured."""

  temperatures: tuple[float, ...] = (1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 1 / 3)
  candidate_counts: tuple[int, ...] = (25, 50, 100, 200)
  noise_scales: tuple[float, ...] = (1, 0.9, 0.8, 0.7, 0.6, 0.5)
  baseline_temperatures: tuple[float, ...] = (
    1,
    0.9,
    0.8,
    0.7,
    0.6,
    0.5,
    0.4,
    0.3,
  )  # of the token model
  num_samples: int = 16  # of the noise scale and the token model
  positions: str = "grid:8"  # the same for both models
  num_rows: int = 32
  batch_size: int = 4  # on each device
  split: str = "valid"
  seed: int = 0

  def __post_init__(self):
    from calm_jax.sampling.batch import log_weights  # JAX, for --help too long

    for temperature in self.temperatures:
      for num_candidates in self.candidate_counts:
        log_weights(temperature, num_candidates)
    for name in ("noise_scales", "baseline_temperatures"):
      if any(not value > 0 for value in getattr(self, name)):
        raise ValueError(f"{name} are {getattr(self, name)}; each is positive.")
    for noise_scale in self.noise_scales:
      check_noise_scale("noise_scale", noise_scale)
    for temperature in self.baseline_temperatures:
      check_token_temperature(temperature)
