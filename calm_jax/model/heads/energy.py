"""The energy head: one network evaluation a sample (paper §3.2)."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config import EnergyHeadConfig
from calm_jax.kernels.distance import Distance
from calm_jax.layers.activation import constrain_rows, position_partition
from calm_jax.layers.linear import linear
from calm_jax.layers.norm import LayerNorm
from calm_jax.layers.silu import silu, silu_gate
from calm_jax.losses.energy import energy_loss
from calm_jax.model.heads.head import Head, HeadLoss
from calm_jax.randomness import draw, sample_keys


class EnergyBlock(nn.Module):
  """x + W·(SiLU(g) ⊙ v), [g, v] = MLP([LN(x); c]).

  The first Linear acts on [LN(x); c]. Its c half is the same for all samples
  of a position, so it is a Linear of its own, applied once a position.
  """

  hidden_size: int
  dtype: jnp.dtype
  init_std: float

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
    """Maps x, [..., n, D], and condition, [..., D], to [..., n, D]."""
    size = self.hidden_size
    options = {
      "dtype": self.dtype,
      "init": nn.initializers.normal(self.init_std),
    }
    axes = ("embed", "mlp")
    inner_x = linear(size, axes, name="inner_x", **options)
    options["use_bias"] = True
    inner_c = linear(size, axes, name="inner_condition", **options)
    middle = linear(size, ("mlp", "embed"), name="middle", **options)
    gate_value = linear(2 * size, axes, name="gate_value", **options)
    down = linear(size, ("mlp", "embed"), name="down", **options)
    x = constrain_rows(x)
    y = inner_x(LayerNorm(name="norm")(x)) + inner_c(condition)[..., None, :]
    gate, value = jnp.split(gate_value(silu(middle(silu(y)))), 2, axis=-1)
    return x + down(silu_gate(gate, value))


class EnergyHead(Head):
  """Noise and a hidden state to a sample of the next latent."""

  config: EnergyHeadConfig

  def setup(self):
    size = self.hidden_size
    dtype = jnp.dtype(self.dtype)
    init = nn.initializers.normal(self.init_std)
    options = {"dtype": dtype, "init": init, "use_bias": True}
    self.noise_embed = linear(size, ("noise", "embed"), **options)
    self.noise_norm = LayerNorm()
    self.condition_embed = linear(size, ("embed", "mlp"), **options)
    self.condition_norm = LayerNorm()
    self.blocks = [
      EnergyBlock(size, dtype, self.init_std)
      for _ in range(self.config.num_mlp_layers)
    ]
    self.norm = LayerNorm()
    self.inner = linear(size, ("embed", "mlp"), **options)
    self.outer = linear(
      self.latent_size,
      ("mlp", "latent"),
      dtype=jnp.float32,
      init=nn.initializers.zeros,
      use_bias=True,
    )

  def __call__(self, hidden: jax.Array, noise: jax.Array) -> jax.Array:
    """The network itself.

    Args:
      hidden: [..., D].
      noise: [..., n, U], uniform in [−½, ½].

    Returns:
      Samples of the latent, [..., n, Z] float32.
    """
    chex.assert_equal_shape_prefix([hidden, noise], hidden.ndim - 1)
    condition = self.condition_norm(
      constrain_rows(self.condition_embed(hidden))
    )
    x = self.noise_norm(self.noise_embed(noise))
    for block in self.blocks:
      x = block(x, condition)
    return self.outer(silu(self.inner(self.norm(constrain_rows(x)))))

  def loss(
    self,
    hidden: jax.Array,
    mean: jax.Array,
    log_std: jax.Array,
    keys: jax.Array,
  ) -> HeadLoss:
    """The energy loss (eq. 9, 10); see `Head.loss`."""
    config = self.config
    sample_ids = jnp.arange(config.num_samples, dtype=jnp.uint32)
    samples = self.sample(hidden, keys, sample_ids)
    target_keys = draw(lambda key: jax.random.fold_in(key, 2**31), keys)
    loss, terms = energy_loss(
      samples,
      mean,
      log_std,
      target_keys,
      num_targets=config.num_targets,
      distance=Distance(*config.distance),
      use_antithetic_targets=config.use_antithetic_targets,
      implementation=config.implementation,
      partition=position_partition(),
    )
    spread = jnp.std(jax.lax.stop_gradient(samples), axis=-2).mean(axis=-1)
    metrics = {
      "energy_fidelity": terms.fidelity,
      "energy_diversity": terms.diversity,
      "sample_spread": spread,
    }
    return HeadLoss(loss, metrics, samples)

  def sample(
    self,
    hidden: jax.Array,
    keys: jax.Array,
    sample_ids: jax.Array,
    noise_scale: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Draws latents; see `Head.sample`."""
    keys = sample_keys(keys, sample_ids)  # [..., n]
    shape = (self.config.noise_size,)
    noise = draw(
      lambda k: jax.random.uniform(k, shape, minval=-0.5, maxval=0.5), keys
    )
    return self(hidden, noise_scale * noise)

  @property
  def alpha(self) -> float:
    kind, parameter = self.config.distance
    return parameter if kind == "energy" else 1.0

  @property
  def elementwise_flops(self) -> float:
    """A difference, a square and a sum for each pair and coordinate."""
    n = self.config.num_samples
    pairs = n * self.config.num_targets + n * (n - 1) / 2
    return 3 * pairs * self.latent_size

  @property
  def published_products(self) -> int:
    """6D² a block, and nothing else."""
    return 6 * self.hidden_size**2 * self.config.num_mlp_layers
