"""The energy loss: the definition, and the switch to its fast versions."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from calm_jax.kernels import counter, energy_score
from calm_jax.kernels.distance import PAPER, Distance, distances
from calm_jax.losses.implementations import is_reference


class EnergyTerms(NamedTuple):
  """The two halves of the loss, for watching; no gradient flows through them.

  Each is [...] float32, in units of ρ.
  """

  fidelity: jax.Array  # 2 · mean distance from samples to targets
  diversity: jax.Array  # mean distance between samples


def energy_loss(
  samples: jax.Array,
  mean: jax.Array,
  log_std: jax.Array,
  keys: jax.Array,
  *,
  num_targets: int,
  distance: Distance = PAPER,
  use_antithetic_targets: bool = False,
  implementation: str = "auto",
  partition: jax.sharding.PartitionSpec | None = None,
) -> tuple[jax.Array, EnergyTerms]:
  """Scores samples against fresh draws from the posterior of the true chunk.

  loss = 2/(N·M) Σ_{n,m} ρ(x_n − y_m) − 1/(N(N−1)) Σ_{n≠k} ρ(x_n − x_k), with
  y_m = mean + exp(log_std)·ε_m and ε_m standard normal; ρ(d) = ‖d‖^α in the
  paper (§3.2, eq. 9, 10). Its expectation is smallest when the samples have the
  targets' distribution.

  Every implementation draws the same ε: number (m, z) of a position is a
  function of that position's key alone (`kernels.counter`), whatever the batch,
  the block or the platform.

  Deviation: with `use_antithetic_targets` the draws come in pairs ±ε, which
  removes the noise of the targets' mean and adds to that of their spread.

  Args:
    samples: [..., N, Z] float32 or bfloat16, x; N ≥ 2.
    mean: [..., Z] float32, of the posterior; no gradient.
    log_std: [..., Z] float32, of the posterior, nats; no gradient.
    keys: [...], typed keys of the positions.
    num_targets: M, draws a position.
    distance: ρ; by default the paper's, with α = 1.
    use_antithetic_targets: targets 2i and 2i+1 lie on opposite sides of the
      mean; M is even.
    implementation: reference | xla | pallas | auto (pallas on TPU and GPU,
      xla elsewhere).
    partition: how the axes [...] lie on the mesh of `jax.set_mesh`, such as
      P(("data", "fsdp"), "sequence"): every device then scores its own
      positions. Needed by pallas where there are several devices.

  Returns:
    The loss of each position, [...] float32, and its two terms. The gradient
    flows to the samples only, and is 0 between coinciding points.

  Raises:
    ValueError: if a setting is out of range.
  """
  _check(samples, num_targets, use_antithetic_targets)
  *shape, _, latent_size = samples.shape
  chex.assert_shape([mean, log_std], (*shape, latent_size))
  chex.assert_shape(keys, tuple(shape))
  if is_reference(implementation):
    noise = counter.target_normals(
      keys,
      num_targets,
      latent_size,
      use_antithetic_targets=use_antithetic_targets,
    )
    mean = mean.astype(jnp.float32)[..., None, :]
    std = jnp.exp(log_std.astype(jnp.float32))[..., None, :]
    targets = jax.lax.stop_gradient(mean + std * noise)
    return energy_loss_from_targets(samples, targets, distance=distance)
  loss, *terms = energy_score.energy_score(
    samples,
    mean,
    log_std,
    keys,
    energy_score.Settings(
      num_targets=num_targets,
      distance=distance,
      use_antithetic_targets=use_antithetic_targets,
      implementation=implementation,
      partition=partition,
    ),
  )
  return loss, EnergyTerms(*terms)


def energy_loss_from_targets(
  samples: jax.Array,
  targets: jax.Array,
  *,
  distance: Distance = PAPER,
) -> tuple[jax.Array, EnergyTerms]:
  """The energy loss against given targets: the plain definition (eq. 9, 10).

  Args:
    samples: [..., N, Z], x; N ≥ 2.
    targets: [..., M, Z], y; no gradient.
    distance: ρ; by default the paper's, with α = 1.

  Returns:
    As `energy_loss`.

  Raises:
    ValueError: if a setting is out of range.
  """
  _check(samples, targets.shape[-2])
  chex.assert_equal_shape_prefix([samples, targets], samples.ndim - 2)
  num_samples = samples.shape[-2]
  x = samples.astype(jnp.float32)
  y = jax.lax.stop_gradient(targets.astype(jnp.float32))
  to_targets = _distances(x, y, distance)  # [..., N, M]
  to_samples = _distances(x, x, distance)  # [..., N, N]
  fidelity = 2.0 * jnp.mean(to_targets, axis=(-2, -1))
  diversity = jnp.sum(to_samples, axis=(-2, -1))
  diversity = diversity / (num_samples * (num_samples - 1))
  terms = EnergyTerms(*jax.lax.stop_gradient((fidelity, diversity)))
  return fidelity - diversity, terms


def _distances(x: jax.Array, y: jax.Array, distance: Distance) -> jax.Array:
  """ρ(x_n − y_m), [..., N, M], with gradient 0 where the two coincide."""
  differences = x[..., :, None, :] - y[..., None, :, :]
  return distances(jnp.sum(jnp.square(differences), axis=-1), distance)


def _check(
  samples: jax.Array,
  num_targets: int,
  use_antithetic_targets: bool = False,
) -> None:
  if samples.ndim < 2 or samples.shape[-2] < 2:
    raise ValueError(
      f"samples have shape {samples.shape}; the energy loss takes [..., N, Z]"
      " with at least N = 2 samples a position."
    )
  if num_targets < 1:
    raise ValueError(
      f"num_targets is {num_targets}; give at least 1 target a position."
    )
  if use_antithetic_targets and num_targets % 2:
    raise ValueError(
      f"num_targets is {num_targets}; antithetic targets come in pairs, so"
      " give an even number."
    )
