"""The mixture head: a density that can be written down (arXiv:2312.02116).

GIVT gives a transformer over real-valued vectors this output. It is the one
head with a likelihood, and its samples need no evaluation beyond the first.
"""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from calm_jax.config.heads import MixtureHeadConfig
from calm_jax.layers.activation import constrain_rows
from calm_jax.layers.linear import linear
from calm_jax.layers.mlp import SwiGLU
from calm_jax.layers.norm import RMSNorm
from calm_jax.model.heads.head import Head, HeadLoss
from calm_jax.randomness import draw, sample_keys

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_MAX_LOG_STD = 7.0  # stds lie between 0.001 and 1100


class Mixture(NamedTuple):
  """Σ_c π_c N(mean_c, diag(std_c²)), float32 each."""

  logits: jax.Array  # [..., C], log π but for a constant
  mean: jax.Array  # [..., C, Z]
  log_std: jax.Array  # [..., C, Z]


class MixtureHead(Head):
  """A hidden state to C Gaussians over the next latent.

  Blocks x + SwiGLU(RMSNorm(x)), as many parameters each as one of the energy
  head, then a norm and one Linear for the logits, the means and the log-stds.
  Components are joint over Z: one choice moves all dimensions at once.

  Deviation: log-stds are 7·tanh(·/7) of the last Linear, where GIVT takes the
  maximum of 1e-6 and a positive function. Between these bounds no squared error
  overflows, and a component that drifts to one keeps a gradient.
  """

  config: MixtureHeadConfig

  def setup(self):
    config = self.config
    init = nn.initializers.normal(self.init_std)
    layers = range(config.num_mlp_layers)
    self.norms = [RMSNorm() for _ in layers]
    self.mlps = [
      SwiGLU(2 * self.hidden_size, jnp.dtype(self.dtype), init) for _ in layers
    ]
    self.norm = RMSNorm()
    shape = (config.num_components, self.latent_size)
    options = {"dtype": jnp.float32, "use_bias": True}
    zeros = {"init": nn.initializers.zeros, **options}
    self.logits = linear(config.num_components, ("embed", None), **zeros)
    # Components that start out equal get equal gradients, and never part.
    self.mean = linear(shape, ("embed", None, "latent"), init=init, **options)
    self.log_std = linear(shape, ("embed", None, "latent"), **zeros)

  def __call__(self, hidden: jax.Array) -> Mixture:
    """The distribution of the next latent: [..., D] → [..., C], [..., C, Z]."""
    chex.assert_axis_dimension(hidden, -1, self.hidden_size)
    x = hidden
    for norm, mlp in zip(self.norms, self.mlps, strict=True):
      x = constrain_rows(x)
      x = x + mlp(norm(x))
    x = self.norm(x)
    log_std = _MAX_LOG_STD * jnp.tanh(self.log_std(x) / _MAX_LOG_STD)
    return Mixture(self.logits(x), self.mean(x), log_std)

  def loss(
    self,
    hidden: jax.Array,
    mean: jax.Array,
    log_std: jax.Array,
    keys: jax.Array,
  ) -> HeadLoss:
    """−log p(z)/Z, a mean over M draws z = mean + std·ε of the posterior.

    In nats a dimension, so that clipping and learning rate mean what they mean
    to the heads whose losses are means over Z; `mixture_nats` is the whole
    latent's. The network runs once a position, so draws cost next to nothing.
    `mixture_components` is exp of the entropy of π, 1 … C.
    """
    chex.assert_equal_shape([mean, log_std])
    num_targets, size = self.config.num_targets, self.latent_size
    keys = sample_keys(keys, jnp.arange(num_targets, dtype=jnp.uint32))
    noise = draw(lambda key: jax.random.normal(key, (size,)), keys)
    mixture = self(hidden)
    nats = -log_density(mixture, mean, log_std, noise).mean(axis=-1)
    log_weights = jax.nn.log_softmax(mixture.logits)
    entropy = -(jnp.exp(log_weights) * log_weights).sum(axis=-1)
    metrics = {"mixture_nats": nats, "mixture_components": jnp.exp(entropy)}
    return HeadLoss(nats / size, jax.lax.stop_gradient(metrics))

  def sample(
    self,
    hidden: jax.Array,
    keys: jax.Array,
    sample_ids: jax.Array,
    noise_scale: float | jax.Array = 1.0,
  ) -> jax.Array:
    """Draws a component, then from its Gaussian.

    `noise_scale` multiplies the stds, and the Gumbel noise that chooses: at 0
    every draw is the mean of the likeliest component.
    """
    mixture = self(hidden)
    sizes = self.config.num_components, self.latent_size
    gumbel, noise = draw(
      lambda key: _draw(key, *sizes), sample_keys(keys, sample_ids)
    )
    scores = mixture.logits[..., None, :] + noise_scale * gumbel
    component = jnp.argmax(scores, axis=-1)
    mean, log_std = (
      jnp.take_along_axis(values, component[..., None], axis=-2)
      for values in (mixture.mean, mixture.log_std)
    )  # [..., n, Z]
    return mean + noise_scale * jnp.exp(log_std) * noise


def log_density(
  mixture: Mixture, mean: jax.Array, log_std: jax.Array, noise: jax.Array
) -> jax.Array:
  """log Σ_c π_c N(z; mean_c, diag(std_c²)) at z = mean + std·ε.

  With d = (mean − mean_c)/std_c and w = std/std_c, what stands in the exponent
  is |d + w⊙ε|² = |d|² + 2·(d⊙w)·ε + w²·ε²: two products with the draws, where
  the difference itself would be [..., M, C, Z]. All three are of the size of
  |d|² + |w|², the mean of the sum, so float32 loses nothing in it.

  Args:
    mixture: of C components.
    mean: [..., Z], of the draws.
    log_std: [..., Z].
    noise: ε, [..., M, Z].

  Returns:
    Nats, [..., M].
  """
  chex.assert_equal_shape([mixture.mean, mixture.log_std])
  chex.assert_equal_shape([mean, log_std])
  size = mean.shape[-1]
  ratio = jnp.exp(log_std[..., None, :] - mixture.log_std)  # w, [..., C, Z]
  offset = mean[..., None, :] - mixture.mean
  offset *= jnp.exp(-mixture.log_std)  # d
  # Anything below float32 in these products is an error of many nats.
  product = functools.partial(
    jnp.einsum, "...mz,...cz->...mc", precision="highest"
  )
  distance = jnp.square(offset).sum(axis=-1)[..., None, :]
  distance += 2 * product(noise, offset * ratio)
  distance += product(jnp.square(noise), jnp.square(ratio))  # [..., M, C]
  log_weights = jax.nn.log_softmax(mixture.logits)
  log_weights -= mixture.log_std.sum(axis=-1) + size * _HALF_LOG_TWO_PI
  return jax.nn.logsumexp(log_weights[..., None, :] - distance / 2, axis=-1)


def _draw(
  key: jax.Array, num_components: int, size: int
) -> tuple[jax.Array, jax.Array]:
  """What chooses the component, and the noise."""
  component_key, noise_key = jax.random.split(key)
  return (
    jax.random.gumbel(component_key, (num_components,)),
    jax.random.normal(noise_key, (size,)),
  )
