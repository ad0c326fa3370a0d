"""Gaussian diffusion as functions of arrays (arXiv:2102.09672).

Steps t = 0 … 999 count from the clean end. With β_t from the cosine schedule
and a_t = Π_{s ≤ t} (1 − β_s), x_t = √a_t · z + √(1 − a_t) · ε. The network's
output is [ε̂, v], and v places the log-variance of the reverse step between
those of log β̃_t (v = −1) and log β_t (v = 1).
"""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

NUM_STEPS = 1000  # of training
_MAX_BETA = 0.999
_HALF_BIN = 1 / 255  # of the likelihood at t = 0
_OPEN_BEYOND = 0.999
_MIN_PROBABILITY = 1e-12


class NoiseSchedule(NamedTuple):
  """Coefficients of S steps, [S] float32 except where said."""

  timesteps: np.ndarray  # [S] int32, the original steps, what the network sees
  sqrt_signal: np.ndarray  # √a
  sqrt_noise: np.ndarray  # √(1 − a)
  mean_scale: np.ndarray  # 1/√(1 − β)
  mean_noise: np.ndarray  # β/(√(1 − a)·√(1 − β))
  max_log_variance: np.ndarray  # log β
  min_log_variance: np.ndarray  # log β̃, that of step 1 at step 0


class DenoisingTerms(NamedTuple):
  """Both parts of the loss, [...] float32, means over Z."""

  mse: jax.Array  # (ε̂ − ε)²
  vb: jax.Array  # bits a dimension of the variational bound; gradient to v only


@functools.cache
def noise_schedule(num_sampling_steps: int) -> NoiseSchedule:
  """The cosine schedule, or the same process in fewer steps.

  β_t = min(1 − ᾱ((t+1)/1000) / ᾱ(t/1000), 0.999) with
  ᾱ(s) = cos²((s + 0.008)/1.008 · π/2); of these the steps
  s_i = round(linspace(0, 999, S)) stay, β′_i = 1 − a_{s_i}/a_{s_{i−1}}, and
  every coefficient is rebuilt from β′. 1000 steps give the schedule itself.

  Deviation: a single step starts at 999, not at 0, where the input is noise.

  Args:
    num_sampling_steps: S, 1 … 1000.

  Returns:
    NumPy arrays, computed in float64.
  """
  times = np.arange(NUM_STEPS + 1) / NUM_STEPS
  alpha_bar = np.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
  betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], _MAX_BETA)
  signal = np.cumprod(1 - betas)  # a, [1000]
  timesteps = np.linspace(0, NUM_STEPS - 1, num_sampling_steps).round()
  if num_sampling_steps == 1:
    timesteps[:] = NUM_STEPS - 1
  timesteps = timesteps.astype(np.int32)
  signal = signal[timesteps]
  earlier = np.append(1.0, signal[:-1])
  betas = 1 - signal / earlier
  variance = betas * (1 - earlier) / (1 - signal)  # β̃
  # β̃_0 = 0 has no logarithm; nothing is drawn at step 0.
  variance[0] = variance[1] if num_sampling_steps > 1 else betas[0]
  return NoiseSchedule(
    timesteps,
    *(
      coefficient.astype(np.float32)
      for coefficient in (
        np.sqrt(signal),
        np.sqrt(1 - signal),
        1 / np.sqrt(1 - betas),
        betas / np.sqrt((1 - signal) * (1 - betas)),
        np.log(betas),
        np.log(variance),
      )
    ),
  )


def add_noise(
  schedule: NoiseSchedule,
  latents: jax.Array,
  index: jax.Array,
  noise: jax.Array,
) -> jax.Array:
  """x_t = √a_t · z + √(1 − a_t) · ε.

  Args:
    schedule: of S steps.
    latents: z, [..., Z].
    index: [...] int32, 0 … S−1.
    noise: ε, [..., Z].

  Returns:
    [..., Z].
  """
  chex.assert_equal_shape([latents, noise])
  signal = _take(schedule.sqrt_signal, index)
  return signal * latents + _take(schedule.sqrt_noise, index) * noise


def p_mean_log_variance(
  schedule: NoiseSchedule, output: jax.Array, x: jax.Array, index: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """One reverse step, p(x_{t−1} | x_t), without clipping.

  mean = (x_t − β_t/√(1 − a_t) · ε̂)/√(1 − β_t), which is the posterior mean
  q(x_{t−1} | x_t, ẑ) without passing through ẑ, whose terms are 10⁴ times
  larger than their difference near t = 999. log-variance = w·log β_t +
  (1 − w)·log β̃_t with w = (v + 1)/2.

  Args:
    schedule: of S steps.
    output: [ε̂, v], [..., 2Z] float32.
    x: x_t, [..., Z] float32.
    index: [...] int32, 0 … S−1.

  Returns:
    Mean and log-variance, [..., Z] float32.
  """
  epsilon, v = jnp.split(output, 2, axis=-1)
  chex.assert_equal_shape([epsilon, x])
  mean = _take(schedule.mean_scale, index) * x
  mean -= _take(schedule.mean_noise, index) * epsilon
  weight = (v + 1) / 2
  log_variance = weight * _take(schedule.max_log_variance, index)
  log_variance += (1 - weight) * _take(schedule.min_log_variance, index)
  return mean, log_variance


def denoising_loss(
  schedule: NoiseSchedule,
  output: jax.Array,
  latents: jax.Array,
  index: jax.Array,
  noise: jax.Array,
) -> DenoisingTerms:
  """Squared error of ε̂, and the variational bound that trains v.

  vb = KL(q(x_{t−1} | x_t, z) ‖ p(x_{t−1} | x_t))/ln 2, and at t = 0
  −log₂ p(z) under the Gaussian p discretised to bins of width 2/255. The two
  means differ by β_t/√((1 − a_t)(1 − β_t)) · (ε̂ − ε), so neither is formed.

  Args:
    schedule: of S steps.
    output: [ε̂, v] at x_t, [..., 2Z] float32.
    latents: z, [..., Z].
    index: [...] int32, 0 … S−1.
    noise: ε, [..., Z].

  Returns:
    Terms, [...] float32 each.
  """
  epsilon, v = jnp.split(output, 2, axis=-1)
  error = epsilon - noise
  mse = jnp.square(error).mean(axis=-1)

  x = add_noise(schedule, latents, index, noise)
  frozen = jnp.concatenate([jax.lax.stop_gradient(epsilon), v], axis=-1)
  mean, log_variance = p_mean_log_variance(schedule, frozen, x, index)
  distance = _take(schedule.mean_noise, index) * jax.lax.stop_gradient(error)
  excess = _take(schedule.min_log_variance, index) - log_variance
  kl = 0.5 * (
    jnp.expm1(excess) - excess + jnp.square(distance) * jnp.exp(-log_variance)
  )
  log_likelihood = discretised_log_likelihood(latents, mean, log_variance)
  is_first = (index == 0)[..., None]
  nats = jnp.where(is_first, -log_likelihood, kl).mean(axis=-1)
  return DenoisingTerms(mse, nats / math.log(2))


def discretised_log_likelihood(
  x: jax.Array, mean: jax.Array, log_variance: jax.Array
) -> jax.Array:
  """log of the probability of the bin of width 2/255 around each x.

  The outermost bins, beyond ±0.999, are open. The normal distribution function
  is approximated by ½(1 + tanh(√(2/π)(x + 0.044715·x³))), and probabilities
  are floored at 1e-12.

  Args:
    x: [..., Z].
    mean: [..., Z].
    log_variance: [..., Z].

  Returns:
    Nats, [..., Z].
  """
  chex.assert_equal_shape([x, mean, log_variance])
  inverse_std = jnp.exp(-0.5 * log_variance)
  upper = _normal_cdf(inverse_std * (x - mean + _HALF_BIN))
  lower = _normal_cdf(inverse_std * (x - mean - _HALF_BIN))
  probability = jnp.where(
    x < -_OPEN_BEYOND,
    upper,
    jnp.where(x > _OPEN_BEYOND, 1 - lower, upper - lower),
  )
  return jnp.log(jnp.maximum(probability, _MIN_PROBABILITY))


def _normal_cdf(x: jax.Array) -> jax.Array:
  # Beyond ±8 it is 0 or 1 in float32, and x³ would make its gradient 0·∞.
  x = jnp.clip(x, -8, 8)
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * (1 + jnp.tanh(inner))


def _take(values: np.ndarray, index: jax.Array) -> jax.Array:
  return jnp.asarray(values)[index][..., None]
