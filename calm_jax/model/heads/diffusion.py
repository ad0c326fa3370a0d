"""The diffusion head, one of the paper's comparisons (§7.4)."""

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config import DiffusionHeadConfig
from calm_jax.model.heads.adaln import AdaLNNetwork
from calm_jax.model.heads.denoising import (
  NUM_STEPS,
  add_noise,
  denoising_loss,
  noise_schedule,
  p_mean_log_variance,
)
from calm_jax.model.heads.head import Head, HeadLoss
from calm_jax.randomness import draw, sample_keys


class DiffusionHead(Head):
  """Learns to take the noise out of a latent, in 1000 small steps."""

  config: DiffusionHeadConfig

  def setup(self):
    self.network = AdaLNNetwork(
      self.config.num_mlp_layers,
      self.hidden_size,
      self.latent_size,
      2 * self.latent_size,
      jnp.dtype(self.dtype),
      self.init_std,
    )

  def __call__(
    self, hidden: jax.Array, x: jax.Array, times: jax.Array
  ) -> jax.Array:
    """The network itself.

    Args:
      hidden: [..., D].
      x: [..., n, Z], noised latents.
      times: [..., n] int32, original steps, 0 … 999.

    Returns:
      [ε̂, v], [..., n, 2Z] float32.
    """
    condition = self.network.embed_condition(hidden)
    return self.network(x, times, condition[..., None, :])

  def loss(
    self,
    hidden: jax.Array,
    mean: jax.Array,
    log_std: jax.Array,
    keys: jax.Array,
  ) -> HeadLoss:
    """Mean over N draws of target, step and noise of `denoising_loss`."""
    chex.assert_equal_shape([mean, log_std])
    keys = sample_keys(
      keys, jnp.arange(self.config.num_samples, dtype="uint32")
    )
    target_noise, noise, times = draw(
      lambda key: _draw(key, self.latent_size), keys
    )
    latents = mean[:, :, None] + jnp.exp(log_std)[:, :, None] * target_noise
    schedule = noise_schedule(NUM_STEPS)
    x = add_noise(schedule, latents, times, noise)
    output = self(hidden, x, times)  # [B, L, N, 2Z]
    terms = denoising_loss(schedule, output, latents, times, noise)
    mse, vb = terms.mse.mean(axis=-1), terms.vb.mean(axis=-1)
    metrics = {"diffusion_mse": mse, "diffusion_vb": vb}
    return HeadLoss(mse + vb, jax.lax.stop_gradient(metrics))

  def sample(
    self,
    hidden: jax.Array,
    keys: jax.Array,
    sample_ids: jax.Array,
    noise_scale: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Ancestral sampling, without clipping and without noise in the last step.

    `noise_scale` multiplies the first noise and that of every step.
    """
    keys = sample_keys(keys, sample_ids)  # [..., n]
    num_steps = self.config.num_sampling_steps
    schedule = noise_schedule(num_steps)
    condition = self.network.embed_condition(hidden)[..., None, :]

    def noise_of(step: int | jax.Array) -> jax.Array:
      fold = lambda key: jax.random.fold_in(key, step)
      size = (self.latent_size,)
      return noise_scale * draw(
        lambda k: jax.random.normal(fold(k), size), keys
      )

    def denoise(network: AdaLNNetwork, x: jax.Array, step: jax.Array):
      index = jnp.full((*keys.shape[:-1], 1), step)  # the same for all n
      times = jnp.asarray(schedule.timesteps)[index]
      output = network(x, times, condition)
      mean, log_variance = p_mean_log_variance(schedule, output, x, index)
      spread = jnp.exp(0.5 * log_variance) * noise_of(step)
      return mean + jnp.where(step > 0, spread, 0.0), None

    # The first noise takes the number after those of the steps 0 … S−1.
    x = noise_of(num_steps)
    scan = nn.scan(
      denoise, variable_broadcast="params", split_rngs={"params": False}
    )
    return scan(self.network, x, jnp.arange(num_steps)[::-1])[0]

  @property
  def num_evaluations(self) -> int:
    return self.config.num_sampling_steps

  @property
  def published_products(self) -> int:
    """5D² a block, and nothing else."""
    return 5 * self.hidden_size**2 * self.config.num_mlp_layers


def _draw(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Noise of the target, noise of the step, and the step."""
  target_key, noise_key, time_key = jax.random.split(key, 3)
  return (
    jax.random.normal(target_key, (size,)),
    jax.random.normal(noise_key, (size,)),
    jax.random.randint(time_key, (), 0, NUM_STEPS),
  )
