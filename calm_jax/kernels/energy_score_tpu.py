"""The energy score as a Pallas kernel for TPU (Mosaic).

A program takes 128 positions, one on each lane of the vector unit, with the
latent dimensions on sublanes, and walks the targets: each pair of them is drawn
in registers, compared with the samples by direct differences, and forgotten.
Nothing but the arguments and results touches main memory.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from calm_jax.kernels import counter
from calm_jax.kernels.distance import Distance, values_and_weights

_NUM_LANES = 128


@functools.partial(
  jax.jit,
  static_argnames=(
    "num_targets",
    "distance",
    "use_antithetic_targets",
    "use_gradient",
    "interpret",
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
  interpret: bool = False,
) -> tuple[jax.Array, ...]:
  """As `energy_score_xla.energy_sums`; samples may be bfloat16."""
  num_positions, num_samples, latent_size = samples.shape
  kernel = functools.partial(
    _kernel,
    num_targets=num_targets,
    distance=distance,
    use_antithetic_targets=use_antithetic_targets,
  )
  by_lane = pl.BlockSpec((1, _NUM_LANES), lambda i: (0, i))
  by_row = pl.BlockSpec((_NUM_LANES, latent_size), lambda i: (i, 0))
  by_sample = pl.BlockSpec(
    (_NUM_LANES, num_samples, latent_size), lambda i: (i, 0, 0)
  )
  value = jax.ShapeDtypeStruct((1, num_positions), jnp.float32)
  slope = jax.ShapeDtypeStruct(samples.shape, samples.dtype)
  block = pltpu.VMEM((num_samples, latent_size, _NUM_LANES), jnp.float32)
  row_block = pltpu.VMEM((latent_size, _NUM_LANES), jnp.float32)
  fidelity, diversity, *gradient = pl.pallas_call(
    kernel,
    grid=(pl.cdiv(num_positions, _NUM_LANES),),
    in_specs=[by_sample, by_row, by_row, by_lane, by_lane],
    out_specs=[by_lane, by_lane, *([by_sample] if use_gradient else [])],
    out_shape=[value, value, *([slope] if use_gradient else [])],
    scratch_shapes=[block, row_block, *([block] if use_gradient else [])],
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
    interpret=interpret,
    name="energy_score",
  )(samples, mean, log_std, key0[None], key1[None])
  return fidelity[0], diversity[0], *gradient


def _kernel(
  samples_ref,
  mean_ref,
  log_std_ref,
  key0_ref,
  key1_ref,
  fidelity_ref,
  diversity_ref,
  *refs,
  num_targets,
  distance,
  use_antithetic_targets,
):
  """One program: blocks of 128 positions in, blocks of 128 positions out."""
  x_ref, std_ref, *slope_refs = refs[-3:] if len(refs) == 4 else refs
  num_samples = x_ref.shape[0]
  mean = mean_ref[...].T
  std_ref[...] = jnp.exp(log_std_ref[...]).T
  for n in range(num_samples):
    x_ref[n] = samples_ref[:, n, :].astype(jnp.float32).T - mean
  for slope_ref in slope_refs:
    slope_ref[...] = jnp.zeros(slope_ref.shape, jnp.float32)

  def visit(points, scales, total):
    """Adds the values of all distances to `points`, each with its scale."""

    def visit_sample(n, total):
      x, slope = x_ref[n], 0.0
      for point, scale in zip(points, scales, strict=True):
        difference = x - point
        values, weights = values_and_weights(
          difference, distance, axis=0, keepdims=True
        )
        total = total + scale * values
        slope = slope + difference * (scale * weights)
      for slope_ref in slope_refs:
        slope_ref[n] += slope
      return total

    return jax.lax.fori_loop(0, num_samples, visit_sample, total)

  def visit_pair(pair, total):
    dimension = jax.lax.broadcasted_iota(jnp.uint32, std_ref.shape, 0)
    first, second = counter.normal_pair(
      key0_ref[...], key1_ref[...], pair.astype(jnp.uint32), dimension
    )
    if use_antithetic_targets:
      second = -first
    std = std_ref[...]
    # The last pair of an odd number of targets is half of one.
    is_real = (2 * pair + 1 < num_targets).astype(jnp.float32)
    return visit((std * first, std * second), (1.0, is_real), total)

  zero = jnp.zeros((1, _NUM_LANES), jnp.float32)
  num_pairs = pl.cdiv(num_targets, 2)
  total = jax.lax.fori_loop(0, num_pairs, visit_pair, zero)
  per_target = 2.0 / (num_samples * num_targets)
  fidelity_ref[...] = per_target * total
  # What was summed so far is in units of one target; every pair of samples is
  # met from both sides, so its gradient counts twice.
  per_sample = 1.0 / (num_samples * (num_samples - 1))
  for slope_ref in slope_refs:
    slope_ref[...] *= -per_target / (2 * per_sample)
  total = jax.lax.fori_loop(
    0,
    num_samples,
    lambda n, total: visit((x_ref[n],), (1.0,), total),
    zero,
  )
  diversity_ref[...] = per_sample * total
  for slope_ref in slope_refs:
    for n in range(num_samples):
      slope = -2 * per_sample * slope_ref[n].T
      gradient_ref = refs[0]
      gradient_ref[:, n, :] = slope.astype(gradient_ref.dtype)
