"""How the parameters follow their gradient."""

from calm_jax.config.fields import (
  added,
  check_choice,
  check_not_negative,
  check_positive,
  check_range,
  config_class,
)


@config_class
class OptimizerConfig:
  """AdamW or Muon, with clipping; no weight decay on norms and biases."""

  # adamw | muon, which takes matrices between hidden states and leaves the
  # other parameters to AdamW
  name: str = added("adamw", absent="adamw", is_of_model=False)
  learning_rate: float = 3e-4  # the peak
  schedule: str = "constant"  # constant | cosine | wsd, after the warm-up
  num_warmup_steps: int = 1000
  decay_fraction: float = 0.2  # wsd: share of the steps that decay, at the end
  final_fraction: float = 0.0  # cosine, wsd: last learning rate over the peak
  b1: float = 0.9
  b2: float = 0.95
  epsilon: float = 1e-8
  # of Muon's momentum
  muon_beta: float = added(0.95, absent=0.95, is_of_model=False)
  weight_decay: float = 0.1
  clip_norm: float = 1.0
  # a step whose gradient has a larger norm is skipped; 0: none is, while finite
  max_gradient_norm: float = added(0.0, absent=0.0, is_of_model=False)

  def __post_init__(self):
    check_positive(self, "learning_rate", "clip_norm", "epsilon")
    check_choice(self, "name", ("adamw", "muon"))
    check_not_negative(
      self, "num_warmup_steps", "weight_decay", "max_gradient_norm"
    )
    check_choice(self, "schedule", ("constant", "cosine", "wsd"))
    for name in ("b1", "b2", "muon_beta"):  # 1 would never move
      check_range(self, name, 0, 0.9999999)
    check_range(self, "learning_rate", 0, 1e30)  # finite in float32
    check_range(self, "decay_fraction", 0, 1)
    check_range(self, "final_fraction", 0, 1)
