"""Compiles the TPU energy score for real topologies, with no TPU at hand."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import (
  Mesh,
  NamedSharding,
  PartitionSpec,
  SingleDeviceSharding,
)

from calm_jax.kernels import energy_score_tpu
from calm_jax.kernels.distance import Distance
from calm_jax.losses import energy

pytestmark = pytest.mark.aot

# Sizes that meet in no product, so that a shape tells what its axes are.
_NUM_ROWS, _NUM_CHUNKS, _NUM_SAMPLES, _NUM_TARGETS, _LATENT_SIZE = (
  16,
  512,
  8,
  97,
  128,
)


def _compile(devices, function, partition):
  """Compiles function(samples, mean, log_std, key words) for a mesh."""
  mesh = Mesh(devices, ("rows", "chunks"))

  def shape(*rest, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(
      (_NUM_ROWS, _NUM_CHUNKS, *rest),
      dtype,
      sharding=NamedSharding(mesh, partition),
    )

  with jax.set_mesh(mesh):
    lowered = jax.jit(function).lower(
      shape(_NUM_SAMPLES, _LATENT_SIZE),
      shape(_LATENT_SIZE),
      shape(_LATENT_SIZE),
      shape(2, dtype=jnp.uint32),
    )
    return lowered.compile()


def _loss(partition, samples, mean, log_std, words):
  loss, _ = energy.energy_loss(
    samples,
    mean,
    log_std,
    jax.random.wrap_key_data(words),
    num_targets=_NUM_TARGETS,
    partition=partition,
  )
  return loss


def _total(*arguments):
  return jnp.sum(_loss(*arguments))


def _shapes(compiled):
  found = re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", compiled.as_text())
  return {tuple(map(int, shape.split(","))) for shape in found}


@pytest.mark.parametrize(
  ("distance", "use_gradient"),
  [
    (Distance("energy", 1.0), False),
    (Distance("energy", 1.0), True),
    (Distance("gaussian", 11.0), True),
    (Distance("inverse_multiquadric", 11.0), True),
  ],
  ids=str,
)
def test_the_kernel_keeps_nothing_in_memory(devices, distance, use_gradient):
  num_positions = _NUM_ROWS * _NUM_CHUNKS

  def shape(*rest, dtype=jnp.float32):
    sharding = SingleDeviceSharding(devices[0])
    return jax.ShapeDtypeStruct(
      (num_positions, *rest), dtype, sharding=sharding
    )

  lowered = energy_score_tpu.energy_sums.lower(
    shape(_NUM_SAMPLES, _LATENT_SIZE),
    shape(_LATENT_SIZE),
    shape(_LATENT_SIZE),
    shape(dtype=jnp.uint32),
    shape(dtype=jnp.uint32),
    num_targets=_NUM_TARGETS,
    distance=distance,
    use_antithetic_targets=False,
    use_gradient=use_gradient,
  )
  compiled = lowered.compile()
  assert "tpu_custom_call" in compiled.as_text()
  assert compiled.memory_analysis().temp_size_in_bytes == 0


@pytest.mark.parametrize("function", [_loss, jax.value_and_grad(_total, 1)])
def test_no_array_has_both_targets_and_dimensions(devices, function):
  partition = PartitionSpec("rows", "chunks")
  compiled = _compile(
    devices[:1].reshape(1, 1),
    functools.partial(function, partition),
    partition,
  )
  assert "tpu_custom_call" in compiled.as_text()
  m_sizes = {_NUM_TARGETS, _NUM_TARGETS + 1, (_NUM_TARGETS + 1) // 2}
  shapes = _shapes(compiled)
  assert (_NUM_ROWS, _NUM_CHUNKS, _NUM_SAMPLES, _LATENT_SIZE) in shapes
  for shape in shapes:
    assert not (m_sizes & set(shape) and _LATENT_SIZE in shape), shape
  # The words of the keys may be copied apart, 8 bytes a position; the samples
  # are 4 kB.
  num_bytes = 4 * _NUM_ROWS * _NUM_CHUNKS * _NUM_SAMPLES * _LATENT_SIZE
  assert compiled.memory_analysis().temp_size_in_bytes < num_bytes / 100


def test_devices_do_not_talk(devices):
  partition = PartitionSpec("rows", "chunks")
  text = _compile(
    devices.reshape(-1, 2),
    functools.partial(_loss, partition),
    partition,
  ).as_text()
  assert "tpu_custom_call" in text
  for word in ("all-gather", "all-reduce", "all-to-all", "permute"):
    assert word not in text
