"""The energy score in one pass over the targets, in plain XLA.

Loss and gradient come out of the same loop over pairs of targets, which are
drawn where they are used; nothing of size M is ever held. Distances are direct
differences, taken from the posterior mean: ‖x‖² + ‖y‖² − 2x·y loses every digit
when x and y are close.
"""

import functools

import jax
import jax.numpy as jnp

from calm_jax.kernels import counter
from calm_jax.kernels.distance import Distance, values_and_weights


@functools.partial(
  jax.jit,
  static_argnames=(
    "num_targets",
    "distance",
    "use_antithetic_targets",
    "use_gradient",
  ),
)
def energy_sums(
  samples: jax.Array,
  mean: jax.Array,
  log_std: jax.Array,
  key0: jax.Array,
  key1: jax.Array,
  *,
  num_targets: int,
  distance: Distance,
  use_antithetic_targets: bool,
  use_gradient: bool,
) -> tuple[jax.Array, ...]:
  """Both terms of the energy score and the gradient of their difference.

  Args:
    samples: [P, N, Z] float32 or bfloat16, x.
    mean: [P, Z] float32, of the posterior.
    log_std: [P, Z] float32, of the posterior, nats.
    key0: [P] uint32, first words of the positions' keys.
    key1: [P] uint32, second words.
    num_targets: M.
    distance: between points.
    use_antithetic_targets: targets in pairs mean ± std·ε.
    use_gradient: whether to compute it.

  Returns:
    fidelity [P] and diversity [P], float32, and, if asked for, the derivative
    of their difference by the samples, [P, N, Z] in the dtype of the samples.
  """
  num_samples, latent_size = samples.shape[1:]
  x = samples.astype(jnp.float32) - mean[:, None]
  std = jnp.exp(log_std)
  dimension = jnp.arange(latent_size, dtype=jnp.uint32)[None]
  key0, key1 = key0[:, None], key1[:, None]

  def draw(pair):
    first, second = counter.normal_pair(key0, key1, pair[None, None], dimension)
    if use_antithetic_targets:
      second = -first
    # Complex, because the two halves of one hash then leave it as one array:
    # XLA would compute the hash again for a second one.
    return jax.lax.complex(std * first, std * second)

  def visit_pair(carry, _):
    # The targets were drawn one turn ahead: what crosses the turns of a loop
    # is stored, and XLA does not draw it anew for each sample.
    pair, targets, fidelity, gradient = carry
    for i, target in enumerate((targets.real, targets.imag)):
      values, weights = values_and_weights(
        x - target[:, None], distance, axis=-1
      )
      if num_targets % 2 and i:
        is_real = 2 * pair + 1 < num_targets
        values = jnp.where(is_real, values, 0.0)
        weights = jnp.where(is_real, weights, 0.0)
      fidelity = fidelity + values
      if use_gradient:
        gradient = gradient + (x - target[:, None]) * weights[..., None]
    return (pair + 1, draw(pair + 1), fidelity, gradient), None

  def visit_sample(carry, n):
    diversity, gradient = carry
    other = jax.lax.dynamic_index_in_dim(x, n, axis=1, keepdims=False)
    values, weights = values_and_weights(x - other[:, None], distance, axis=-1)
    diversity = diversity + values
    if use_gradient:
      gradient = gradient + (x - other[:, None]) * weights[..., None]
    return (diversity, gradient), None

  first = jnp.uint32(0)
  zero = jnp.zeros_like(x) if use_gradient else None
  start = (first, draw(first), jnp.zeros_like(x[..., 0]), zero)
  (_, _, fidelity, pull), _ = jax.lax.scan(
    visit_pair, start, length=-(-num_targets // 2)
  )
  (diversity, push), _ = jax.lax.scan(
    visit_sample, (jnp.zeros_like(x[..., 0]), zero), jnp.arange(num_samples)
  )
  # Every pair of samples is met from both sides, so its gradient counts twice.
  per_target = 2.0 / (num_samples * num_targets)
  per_sample = 1.0 / (num_samples * (num_samples - 1))
  fidelity = per_target * jnp.sum(fidelity, axis=-1)
  diversity = per_sample * jnp.sum(diversity, axis=-1)
  if not use_gradient:
    return fidelity, diversity
  slope = per_target * pull - 2 * per_sample * push
  return fidelity, diversity, slope.astype(samples.dtype)
