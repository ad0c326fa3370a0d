"""The flow-map head: the flow head's path in one jump (arXiv:2505.18825).

The flow head learns a velocity and integrates it. Here one network learns the
solution itself: X_{s,t}(x) = x + (t − s)·u_{s,t}(x) takes the point x of a path
at time s to its point at time t, so u_{s,t} is the average velocity between the
two, and u_{t,t} the velocity itself (the tangent condition).

Of the ways to learn it this is the Lagrangian one. MeanFlow (arXiv:2505.13447)
differentiates along the path at s instead, with the velocity of a single draw,
and multiplies that draw's noise by the network's slope in x. arXiv:2509.06926
gives a transformer over audio latents a one-step head of this kind.
"""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config.heads import FlowMapHeadConfig
from calm_jax.kernels.product import forward_mode
from calm_jax.layers.linear import linear
from calm_jax.layers.silu import silu
from calm_jax.model.heads.adaln import AdaLNNetwork, sinusoid
from calm_jax.model.heads.flow import interpolate, matching_loss
from calm_jax.model.heads.head import Head, HeadLoss
from calm_jax.randomness import draw, sample_keys

AverageVelocity = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class FlowMapHead(Head):
  """Learns where a path from noise to a latent leads, and jumps there.

  The network is that of the flow head, with an embedding of t − s of its own.
  Times enter as they are, in [0, 1]: the loss differentiates with respect to t,
  where the flow head's ⌊1000·t⌋ has no slope and 1000·t a thousand times more.
  """

  config: FlowMapHeadConfig

  def setup(self):
    size, dtype = self.hidden_size, jnp.dtype(self.dtype)
    self.network = AdaLNNetwork(
      self.config.num_mlp_layers,
      size,
      self.latent_size,
      self.latent_size,
      dtype,
      self.init_std,
    )
    init = nn.initializers.normal(self.init_std)
    options = {"dtype": dtype, "init": init, "use_bias": True}
    self.duration_inner = linear(size, (None, "mlp"), **options)
    self.duration_outer = linear(size, ("mlp", "embed"), **options)

  def __call__(
    self,
    hidden: jax.Array,
    x: jax.Array,
    start: jax.Array,
    end: jax.Array,
  ) -> jax.Array:
    """The network itself.

    Args:
      hidden: [..., D].
      x: [..., n, Z], points of paths at `start`.
      start: s, [..., n] float32 in [0, 1]; or [..., 1], the same for all n.
      end: t, of the same shape, in [s, 1].

    Returns:
      Average velocities u_{s,t}(x), [..., n, Z] float32.
    """
    chex.assert_equal_shape_prefix([hidden, x, start], hidden.ndim - 1)
    chex.assert_equal_shape([start, end])
    condition = self.network.embed_condition(hidden)[..., None, :]
    duration = silu(self.duration_inner(sinusoid(end - start)))
    return self.network(x, start, condition + self.duration_outer(duration))

  def loss(
    self,
    hidden: jax.Array,
    mean: jax.Array,
    log_std: jax.Array,
    keys: jax.Array,
  ) -> HeadLoss:
    """`jump_loss`, a mean over J of N draws, and `matching_loss` over the rest.

    In their sum the velocity u_{t,t} learns from data, as in the flow head, and
    the jumps learn from that velocity. N and J change its noise, not its mean.

    Deviation: no weight is learned for each pair of times; all count the same.
    """
    chex.assert_equal_shape([mean, log_std])
    num_samples, num_jumps = self.config.num_samples, self.config.num_jumps
    keys = sample_keys(keys, jnp.arange(num_samples, dtype="uint32"))
    target_noise, noise, times = draw(
      lambda key: _draw(key, self.latent_size), keys
    )
    latents = mean[:, :, None] + jnp.exp(log_std)[:, :, None] * target_noise
    velocity_fn = functools.partial(self, hidden)
    draws = noise, latents, times

    noise, latents, times = (x[:, :, :num_jumps] for x in draws)
    start, end = times.min(axis=-1), times.max(axis=-1)
    x = interpolate(noise, latents, start)
    jumps = jump_loss(velocity_fn, x, start, end).mean(axis=-1)

    noise, latents, times = (x[:, :, num_jumps:] for x in draws)
    time = times[..., 0]
    velocity = velocity_fn(interpolate(noise, latents, time), time, time)
    matching = matching_loss(velocity, noise, latents).mean(axis=-1)

    metrics = {"flow_map_jump": jumps, "flow_map_matching": matching}
    return HeadLoss(jumps + matching, jax.lax.stop_gradient(metrics))

  def sample(
    self,
    hidden: jax.Array,
    keys: jax.Array,
    sample_ids: jax.Array,
    noise_scale: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Jumps to the end; `noise_scale` multiplies the noise at the start."""
    keys = sample_keys(keys, sample_ids)  # [..., n]
    size = (self.latent_size,)
    noise = draw(lambda key: jax.random.normal(key, size), keys)
    return jump(
      functools.partial(self, hidden),
      noise_scale * noise,
      self.config.num_sampling_steps,
    )


def jump(
  velocity_fn: AverageVelocity, noise: jax.Array, num_steps: int
) -> jax.Array:
  """x ← X_{s,t}(x) from t = 0 to 1, in one jump or in several equal ones.

  Args:
    velocity_fn: u_{s,t}(x), of x, s and t.
    noise: x₀, [..., n, Z].
    num_steps: one evaluation each.

  Returns:
    Latents, [..., n, Z].
  """
  x = noise
  for i in range(num_steps):
    start, end = (
      jnp.full((*x.shape[:-2], 1), step / num_steps) for step in (i, i + 1)
    )
    x = x + velocity_fn(x, start, end) / num_steps
  return x


def jump_loss(
  velocity_fn: AverageVelocity,
  x: jax.Array,
  start: jax.Array,
  end: jax.Array,
) -> jax.Array:
  """Lagrangian self-distillation: (∂_t X_{s,t}(x) − u_{t,t}(X_{s,t}(x)))².

  Where a jump ends, it moves with the velocity there. This is 0 for the true
  flow map alone, whatever x is: no target is drawn, so the loss adds no noise.
  The velocity is the teacher and gets no gradient, nor does the point at which
  it is asked.

  Args:
    velocity_fn: u_{s,t}(x), of x, s and t.
    x: [..., Z], points of paths at `start`.
    start: s, [...].
    end: t, [...].

  Returns:
    Mean over Z, [...].
  """
  chex.assert_equal_shape([start, end])

  def land(end: jax.Array) -> jax.Array:
    return x + (end - start)[..., None] * velocity_fn(x, start, end)

  with forward_mode():
    there, slope = jax.jvp(land, (end,), (jnp.ones_like(end),))
  target = velocity_fn(jax.lax.stop_gradient(there), end, end)
  return jnp.square(slope - jax.lax.stop_gradient(target)).mean(axis=-1)


def _draw(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Noise of the target, noise of the path, and two times."""
  target_key, noise_key, time_key = jax.random.split(key, 3)
  return (
    jax.random.normal(target_key, (size,)),
    jax.random.normal(noise_key, (size,)),
    jax.random.uniform(time_key, (2,)),
  )
