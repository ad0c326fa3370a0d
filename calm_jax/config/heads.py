"""What turns a hidden state into a distribution over the next latent.

The settings of every head, and the table of them.
"""

from typing import ClassVar

from calm_jax.config.fields import (
  IMPLEMENTATIONS,
  added,
  check_choice,
  check_positive,
  check_range,
  config_class,
)


@config_class
class HeadConfig:
  """What all heads have."""

  kinds: ClassVar[dict[str, type["HeadConfig"]]]  # by name, see below
  kind: ClassVar[str]
  samples_in_training: ClassVar[bool] = False  # its loss gives them, see `Head`
  num_mlp_layers: int = 2  # head blocks

  def __post_init__(self):
    check_positive(self, "num_mlp_layers")


@config_class
class EnergyHeadConfig(HeadConfig):
  """One-step head trained with the energy score (paper §3.2, eq. 9, 10)."""

  kind: ClassVar[str] = "energy"
  samples_in_training: ClassVar[bool] = True
  noise_size: int = 64  # U
  num_samples: int = 8  # N, model samples a position
  num_targets: int = 100  # M, draws from the posterior a position
  alpha: float = 1.0  # exponent of the distance, in (0, 2)
  use_antithetic_targets: bool = False  # targets in pairs mean ± std·ε
  implementation: str = "auto"  # of the energy score
  # What the distance is: energy, ‖d‖^α, or 1 − k(d) of a kernel k, gaussian or
  # inverse_multiquadric, which makes it a kernel score.
  score: str = added("energy", absent="energy")
  bandwidth: float | None = added(None, absent=None)  # h of a kernel

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, "noise_size", "num_targets")
    check_choice(self, "score", ("energy", "gaussian", "inverse_multiquadric"))
    is_kernel = self.score != "energy"
    if is_kernel and (self.bandwidth is None or self.alpha != 1):
      raise ValueError(
        f"score is {self.score} with alpha {self.alpha} and bandwidth"
        f" {self.bandwidth}; a kernel score takes a bandwidth, about as long as"
        " the distances between latents, √(2Z) for instance, and no alpha."
      )
    if self.bandwidth is not None:
      check_positive(self, "bandwidth")
      if not is_kernel:
        raise ValueError(
          f"bandwidth is {self.bandwidth}, and the energy score has none; leave"
          " it out, or give score=gaussian."
        )
    if self.num_samples < 2:
      raise ValueError(
        f"num_samples is {self.num_samples}; the energy score compares model"
        " samples with each other and needs at least 2."
      )
    if not 0 < self.alpha < 2:
      raise ValueError(
        f"alpha is {self.alpha}; the energy score is strictly proper only for"
        " 0 < alpha < 2. The paper uses 1."
      )
    if self.use_antithetic_targets and self.num_targets % 2:
      raise ValueError(
        f"num_targets is {self.num_targets}; antithetic targets come in pairs,"
        " so give an even number."
      )
    check_choice(self, "implementation", IMPLEMENTATIONS)

  @property
  def distance(self) -> tuple[str, float]:
    """What `calm_jax.kernels.distance.Distance` is made of."""
    return self.score, self.alpha if self.bandwidth is None else self.bandwidth


@config_class
class DiffusionHeadConfig(HeadConfig):
  """Denoising diffusion head, the paper's comparison (§7.4)."""

  kind: ClassVar[str] = "diffusion"
  num_samples: int = 4  # N, targets drawn a position
  num_sampling_steps: int = 100  # of the 1000 training steps

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, "num_samples")
    check_range(self, "num_sampling_steps", 1, 1000)


@config_class
class FlowHeadConfig(HeadConfig):
  """Flow-matching head, the paper's comparison (§7.4)."""

  kind: ClassVar[str] = "flow"
  num_samples: int = 4  # N, targets drawn a position
  num_sampling_steps: int = 10
  solver: str = "midpoint"  # midpoint: two evaluations a step; euler: one

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, "num_samples", "num_sampling_steps")
    check_choice(self, "solver", ("midpoint", "euler"))


@config_class
class MixtureHeadConfig(HeadConfig):
  """Gaussian mixture head, trained by its likelihood (arXiv:2312.02116)."""

  kind: ClassVar[str] = "mixture"
  num_components: int = 16  # C
  num_targets: int = 16  # M, draws from the posterior a position

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, "num_components", "num_targets")


@config_class
class FlowMapHeadConfig(HeadConfig):
  """One-step head that learns the flow head's solution (arXiv:2505.18825)."""

  kind: ClassVar[str] = "flow_map"
  num_samples: int = 4  # N, targets drawn a position
  num_jumps: int = 1  # J, of these for jumps; the rest are for the velocity
  num_sampling_steps: int = 1

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, "num_jumps", "num_sampling_steps")
    if self.num_jumps >= self.num_samples:
      raise ValueError(
        f"num_jumps is {self.num_jumps} of num_samples {self.num_samples};"
        " jumps learn from the velocity, which needs draws of its own."
      )


HeadConfig.kinds = {
  head.kind: head
  for head in (
    EnergyHeadConfig,
    DiffusionHeadConfig,
    FlowHeadConfig,
    MixtureHeadConfig,
    FlowMapHeadConfig,
  )
}
