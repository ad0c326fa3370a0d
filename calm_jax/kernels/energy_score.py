"""The energy score with its own gradient: value and slope in one forward pass.

The loss has one gradient, to the samples, and the forward pass knows it up to
the factor that comes back from above. So it is computed with the loss and is
the only residual; a call that is not differentiated does not compute it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from calm_jax.kernels import counter, energy_score_xla


class Settings(NamedTuple):
  """What the compiler has to know of one energy score."""

  num_targets: int  # M
  alpha: float  # exponent of the distance
  use_antithetic_targets: bool
  implementation: str  # xla | pallas


def energy_score(
  samples: jax.Array,
  mean: jax.Array,
  log_std: jax.Array,
  keys: jax.Array,
  settings: Settings,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The energy loss with targets drawn as they are used.

  Args:
    samples: [..., N, Z].
    mean: [..., Z].
    log_std: [..., Z].
    keys: [...], typed keys of the positions.
    settings: see there.

  Returns:
    loss, fidelity and diversity, [...] float32; a gradient flows from the loss
    to the samples and from and to nothing else.
  """
  num_samples, latent_size = samples.shape[-2:]
  key0, key1 = counter.key_words(keys)
  mean, log_std = jax.lax.stop_gradient((mean, log_std))
  results = _score(
    settings,
    samples.reshape(-1, num_samples, latent_size),
    mean.reshape(-1, latent_size).astype(jnp.float32),
    jnp.exp(log_std.reshape(-1, latent_size).astype(jnp.float32)),
    key0.reshape(-1),
    key1.reshape(-1),
  )
  loss, fidelity, diversity = (r.reshape(keys.shape) for r in results)
  return loss, *jax.lax.stop_gradient((fidelity, diversity))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _score(settings, samples, mean, std, key0, key1):
  fidelity, diversity, _ = _sums(
    settings, samples, mean, std, key0, key1, use_gradient=False
  )
  return fidelity - diversity, fidelity, diversity


def _score_forward(settings, samples, mean, std, key0, key1):
  fidelity, diversity, gradient = _sums(
    settings, samples, mean, std, key0, key1, use_gradient=True
  )
  result = fidelity - diversity, fidelity, diversity
  return result, gradient.astype(samples.dtype)


def _score_backward(settings, gradient, cotangents):
  del settings
  slope = cotangents[0][:, None, None] * gradient.astype(jnp.float32)
  return slope.astype(gradient.dtype), None, None, None, None


_score.defvjp(_score_forward, _score_backward)


def _sums(settings, samples, mean, std, key0, key1, *, use_gradient):
  return energy_score_xla.energy_sums(
    samples.astype(jnp.float32),
    mean,
    std,
    key0,
    key1,
    num_targets=settings.num_targets,
    alpha=settings.alpha,
    use_antithetic_targets=settings.use_antithetic_targets,
    use_gradient=use_gradient,
  )
