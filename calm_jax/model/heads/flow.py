"""The flow-matching head, one of the paper's comparisons (§7.4)."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config import FlowHeadConfig
from calm_jax.model.heads.adaln import AdaLNNetwork
from calm_jax.model.heads.head import Head, HeadLoss
from calm_jax.randomness import draw, sample_keys

_TIME_SCALE = 1000  # the network sees ⌊1000·t⌋


class FlowHead(Head):
  """Learns the straight-line velocity from noise to a latent."""

  config: FlowHeadConfig

  def setup(self):
    self.network = AdaLNNetwork(
      self.config.num_mlp_layers,
      self.hidden_size,
      self.latent_size,
      self.latent_size,
      jnp.dtype(self.dtype),
      self.init_std,
    )

  def __call__(
    self, hidden: jax.Array, x: jax.Array, times: jax.Array
  ) -> jax.Array:
    """The network itself.

    Args:
      hidden: [..., D].
      x: [..., n, Z].
      times: [..., n] float32 in [0, 1).

    Returns:
      Velocities, [..., n, Z] float32.
    """
    condition = self.network.embed_condition(hidden)
    steps = jnp.floor(_TIME_SCALE * times).astype(jnp.int32)
    return self.network(x, steps, condition[..., None, :])

  def loss(
    self,
    hidden: jax.Array,
    mean: jax.Array,
    log_std: jax.Array,
    keys: jax.Array,
  ) -> HeadLoss:
    """Mean over N draws of target, time and noise of `matching_loss`."""
    chex.assert_equal_shape([mean, log_std])
    keys = sample_keys(
      keys, jnp.arange(self.config.num_samples, dtype="uint32")
    )
    target_noise, noise, times = draw(
      lambda key: _draw(key, self.latent_size), keys
    )
    latents = mean[:, :, None] + jnp.exp(log_std)[:, :, None] * target_noise
    velocity = self(hidden, interpolate(noise, latents, times), times)
    loss = matching_loss(velocity, noise, latents)  # [B, L, N]
    return HeadLoss(loss.mean(axis=-1), {})

  def sample(
    self,
    hidden: jax.Array,
    keys: jax.Array,
    sample_ids: jax.Array,
    noise_scale: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Follows the flow; `noise_scale` multiplies the noise it starts from."""
    keys = sample_keys(keys, sample_ids)  # [..., n]
    size = (self.latent_size,)
    noise = draw(lambda key: jax.random.normal(key, size), keys)
    return self.integrate(hidden, noise_scale * noise)

  def integrate(self, hidden: jax.Array, noise: jax.Array) -> jax.Array:
    """Follows the velocity from t = 0 to 1.

    Times come from their integer index: summed up in floating point they fall
    just below 0.8 and 0.9, and ⌊1000·t⌋ would be 799 and 899.

    Args:
      hidden: [..., D].
      noise: x₀, [..., n, Z] float32.

    Returns:
      Latents, [..., n, Z] float32.
    """
    chex.assert_equal_shape_prefix([hidden, noise], hidden.ndim - 1)
    num_steps = self.config.num_sampling_steps
    is_midpoint = self.config.solver == "midpoint"
    condition = self.network.embed_condition(hidden)[..., None, :]

    def velocity(network: AdaLNNetwork, x: jax.Array, half_step: jax.Array):
      time = _TIME_SCALE * half_step // (2 * num_steps)
      times = jnp.full((*x.shape[:-2], 1), time)  # the same for all n
      return network(x, times, condition)

    def advance(network: AdaLNNetwork, x: jax.Array, step: jax.Array):
      slope = velocity(network, x, 2 * step)
      if is_midpoint:
        middle = x + slope / (2 * num_steps)
        slope = velocity(network, middle, 2 * step + 1)
      return x + slope / num_steps, None

    scan = nn.scan(
      advance, variable_broadcast="params", split_rngs={"params": False}
    )
    return scan(self.network, noise, jnp.arange(num_steps))[0]

  @property
  def num_evaluations(self) -> int:
    is_midpoint = self.config.solver == "midpoint"
    return self.config.num_sampling_steps * (2 if is_midpoint else 1)

  @property
  def published_products(self) -> int:
    """5D² a block, and nothing else."""
    return 5 * self.hidden_size**2 * self.config.num_mlp_layers


def interpolate(
  noise: jax.Array, latents: jax.Array, times: jax.Array
) -> jax.Array:
  """x_t = (1 − t)·x₀ + t·z: [..., Z], [..., Z], [...] → [..., Z]."""
  chex.assert_equal_shape([noise, latents])
  times = times[..., None]
  return (1 - times) * noise + times * latents


def matching_loss(
  velocity: jax.Array, noise: jax.Array, latents: jax.Array
) -> jax.Array:
  """Mean over Z of (v̂ − (z − x₀))²: [..., Z] each → [...] float32."""
  chex.assert_equal_shape([velocity, noise, latents])
  return jnp.square(velocity - (latents - noise)).mean(axis=-1)


def _draw(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Noise of the target, noise of the flow, and the time."""
  target_key, noise_key, time_key = jax.random.split(key, 3)
  return (
    jax.random.normal(target_key, (size,)),
    jax.random.normal(noise_key, (size,)),
    jax.random.uniform(time_key, ()),
  )
