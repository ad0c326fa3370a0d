"""The energy score as a Pallas kernel for GPU (Triton).

A program takes one position. Its samples and their gradient stay in registers
while it walks the targets: each pair of them is drawn, compared with the
samples by direct differences, and forgotten.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from calm_jax.kernels import counter
from calm_jax.kernels.distance import Distance, values_and_weights

try:
  from jax.experimental.pallas import triton as plgpu
except ImportError:  # jax 0.11 calls it deprecated
  plgpu = None

# Numbers of a tile [N, Z] that one warp of 32 threads keeps in registers. With
# one warp for all samples, no draw is made twice in different warps.
_TILE_SIZE = 1024
_MAX_WARPS = 8


def is_available() -> bool:
  """Whether the jax at hand compiles Pallas through Triton."""
  return plgpu is not None


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
  # Triton's tiles have sides that are powers of two. The arrays get them, too:
  # from jax 0.12 on no window may reach beyond an array, masked or not.
  tile = (pl.next_power_of_2(num_samples), pl.next_power_of_2(latent_size))
  columns = (0, tile[1] - latent_size)
  samples = jnp.pad(samples, [(0, 0), (0, tile[0] - num_samples), columns])
  mean, log_std = (jnp.pad(it, [(0, 0), columns]) for it in (mean, log_std))
  num_warps = min(_MAX_WARPS, max(1, tile[0] * tile[1] // _TILE_SIZE))
  value = jax.ShapeDtypeStruct((num_positions,), jnp.float32)
  slope = jax.ShapeDtypeStruct(samples.shape, samples.dtype)
  fidelity, diversity, *gradient = pl.pallas_call(
    functools.partial(
      _kernel,
      num_samples=num_samples,
      latent_size=latent_size,
      num_targets=num_targets,
      distance=distance,
      use_antithetic_targets=use_antithetic_targets,
    ),
    grid=(num_positions,),
    out_shape=[value, value, *([slope] if use_gradient else [])],
    # Given in full, for without it the backend depends on jax's version.
    compiler_params=plgpu.CompilerParams(num_warps=num_warps, num_stages=1),
    interpret=interpret,
    name="energy_score",
  )(samples, mean, log_std, key0, key1)
  return (
    fidelity,
    diversity,
    *(slope[:, :num_samples, :latent_size] for slope in gradient),
  )


def _kernel(
  samples_ref,
  mean_ref,
  log_std_ref,
  key0_ref,
  key1_ref,
  fidelity_ref,
  diversity_ref,
  *gradient_refs,
  num_samples,
  latent_size,
  num_targets,
  distance,
  use_antithetic_targets,
):
  """One program: the position that bears its number."""
  position = pl.program_id(0)
  tile = samples_ref.shape[1:]
  columns = jnp.arange(tile[1])
  mean = mean_ref[position]
  # Columns beyond Z hold zeros everywhere, so they add no distance.
  std = jnp.where(columns < latent_size, jnp.exp(log_std_ref[position]), 0.0)
  x = samples_ref[position].astype(jnp.float32) - mean[None]

  def visit(point, scale, total, slope):
    difference = x - point[None]
    values, weights = values_and_weights(difference, distance, axis=-1)
    if gradient_refs:
      slope = slope + difference * (scale * weights)[:, None]
    return total + scale * values, slope

  def visit_pair(pair, carry):
    first, second = counter.normal_pair(
      key0_ref[position],
      key1_ref[position],
      pair.astype(jnp.uint32),
      columns.astype(jnp.uint32),
    )
    if use_antithetic_targets:
      second = -first
    carry = visit(std * first, 1.0, *carry)
    # The last pair of an odd number of targets is half of one.
    is_real = (2 * pair + 1 < num_targets).astype(jnp.float32)
    return visit(std * second, is_real, *carry)

  def visit_sample(n, carry):
    point = samples_ref[position, n].astype(jnp.float32) - mean
    return visit(point, 1.0, *carry)

  total = jnp.zeros(tile[:1], jnp.float32)
  slope = jnp.zeros(tile, jnp.float32)
  num_pairs = pl.cdiv(num_targets, 2)
  fidelity, pull = jax.lax.fori_loop(0, num_pairs, visit_pair, (total, slope))
  diversity, push = jax.lax.fori_loop(
    0, num_samples, visit_sample, (total, slope)
  )
  per_target = 2.0 / (num_samples * num_targets)
  per_sample = 1.0 / (num_samples * (num_samples - 1))
  is_row = jnp.arange(tile[0]) < num_samples
  fidelity = jnp.sum(jnp.where(is_row, fidelity, 0.0))
  diversity = jnp.sum(jnp.where(is_row, diversity, 0.0))
  fidelity_ref[position] = per_target * fidelity
  diversity_ref[position] = per_sample * diversity
  for gradient_ref in gradient_refs:
    # Every pair of samples is met from both sides: its gradient counts twice.
    slope = per_target * pull - 2 * per_sample * push
    gradient_ref[position] = slope.astype(gradient_ref.dtype)
