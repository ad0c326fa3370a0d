"""How the parameters follow their gradient."""

from calm_jax.config.fields import (
  check_choice,
  check_not_negative,
  check_positive,
  check_range,
  config_class,
)


@config_class
class OptimizerConfig:
  """AdamW with clipping; no weight decay on norms and biases."""

  learning_rate: float = 3e-4  # the peak
  schedule: str = "constant"  # constant | cosine | wsd, after the warm-up
  num_warmup_steps: int = 1000
  decay_fraction: float = 0.2  # wsd: share of the steps that decay, at the end
  final_fraction: float = 0.0  # cosine, wsd: last learning rate over the peak
  b1: float = 0.9
  b2: float = 0.95
  epsilon: float = 1e-8
  weight_decay: float = 0.1
  clip_norm: float = 1.0

  def __post_init__(self):
    check_positive(self, "learning_rate", "clip_norm", "epsilon")
    check_not_negative(self, "num_warmup_steps", "weight_decay")
    check_choice(self, "schedule", ("constant", "cosine", "wsd"))
    check_range(self, "decay_fraction", 0, 1)
    check_range(self, "final_fraction", 0, 1)
