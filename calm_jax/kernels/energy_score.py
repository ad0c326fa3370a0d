"""The energy score with its own gradient: value and slope in one forward pass.

The loss has one gradient, to the samples, and the forward pass knows it up to
the factor that comes back from above. So it is computed with the loss and is
the only residual; a call that is not differentiated does not compute it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from calm_jax.kernels import (
  counter,
  energy_score_gpu,
  energy_score_tpu,
  energy_score_xla,
  per_shard,
)
from calm_jax.kernels.blocks import scan_positions
from calm_jax.kernels.distance import Distance

_BLOCK_BYTES = 2**21  # of float32 samples, on CPU


class Settings(NamedTuple):
  """What the compiler has to know of one energy score."""

  num_targets: int  # M
  distance: Distance
  use_antithetic_targets: bool
  implementation: str  # auto | xla | pallas
  partition: jax.sharding.PartitionSpec | None  # of the axes of positions


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
  mean, log_std = jax.lax.stop_gradient((mean, log_std))
  loss, fidelity, diversity = _score(
    settings,
    samples,
    mean.astype(jnp.float32),
    log_std.astype(jnp.float32),
    *counter.key_words(keys),
  )
  return loss, *jax.lax.stop_gradient((fidelity, diversity))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _score(settings, *arguments):
  fidelity, diversity = _sums(settings, False, *arguments)
  return fidelity - diversity, fidelity, diversity


def _score_forward(settings, *arguments):
  fidelity, diversity, gradient = _sums(settings, True, *arguments)
  return (fidelity - diversity, fidelity, diversity), gradient


def _score_backward(settings, gradient, cotangents):
  del settings
  slope = cotangents[0][..., None, None] * gradient.astype(jnp.float32)
  return slope.astype(gradient.dtype), None, None, None, None


_score.defvjp(_score_forward, _score_backward)


def _sums(settings, use_gradient, samples, *rest):
  """Calls the chosen version on flat positions, on each device for its own."""
  fixed = {
    "num_targets": settings.num_targets,
    "distance": settings.distance,
    "use_antithetic_targets": settings.use_antithetic_targets,
    "use_gradient": use_gradient,
  }
  xla = functools.partial(energy_score_xla.energy_sums, **fixed)
  tpu = functools.partial(energy_score_tpu.energy_sums, **fixed)
  gpu = xla
  if energy_score_gpu.is_available():
    gpu = functools.partial(energy_score_gpu.energy_sums, **fixed)
  elif settings.implementation != "xla" and jax.default_backend() == "gpu":
    logging.log_first_n(
      logging.WARNING,
      "jax %s has no Pallas for Triton: the energy score is computed by XLA on"
      " GPUs, in more time and memory.",
      1,
      jax.__version__,
    )
  # Positions that lie on several devices, unknown where, are not cut up.
  is_split = settings.partition is None and per_shard.num_devices_unknown() > 1
  cpu = xla if is_split else functools.partial(_in_blocks, xla)
  # Chosen where the program is lowered, not where it is traced: it may be
  # compiled ahead of time for another platform than this one.
  versions = {
    "auto": {"cpu": cpu, "tpu": tpu, "cuda": gpu, "default": xla},
    "xla": {"cpu": cpu, "default": xla},
    "pallas": {
      "tpu": tpu,
      "cuda": gpu,
      "default": functools.partial(tpu, interpret=True),
    },
  }[settings.implementation]

  def call(samples, *rest):
    shape = samples.shape[:-2]
    flat = [a.reshape(-1, *a.shape[len(shape) :]) for a in (samples, *rest)]
    results = jax.lax.platform_dependent(*flat, **versions)
    return tuple(a.reshape(*shape, *a.shape[1:]) for a in results), ()

  results, _ = per_shard.call(
    call, settings.partition, samples.ndim - 2, (samples, *rest)
  )
  return results


def _in_blocks(function, samples, *rest):
  """A block of positions at a time, small enough for a core's own cache."""
  size = _BLOCK_BYTES // (4 * samples.shape[1] * samples.shape[2])
  _, results = scan_positions(
    lambda _, block: (None, function(*block)), None, (samples, *rest), size
  )
  return results
