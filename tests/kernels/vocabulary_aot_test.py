"""Compiles the cross-entropy's sum for TPUs, with no TPU at hand."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from calm_jax.kernels import vocabulary_tiles
from calm_jax.losses import vocabulary

pytestmark = pytest.mark.aot

_NUM_POSITIONS, _NUM_WORDS, _SIZE = 8192, 32768, 512


def test_logits_never_reach_main_memory(devices):
  def array(shape, dtype):
    sharding = SingleDeviceSharding(devices[0])
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  compiled = (
    jax.jit(jax.value_and_grad(vocabulary.cross_entropy_sum, (0, 1), True))
    .lower(
      array((_NUM_POSITIONS, _SIZE), jnp.bfloat16),
      array((_NUM_WORDS, _SIZE), jnp.float32),
      array((_NUM_POSITIONS,), jnp.int32),
      array((_NUM_WORDS,), bool),
      array((_NUM_POSITIONS,), jnp.float32),
    )
    .compile()
  )
  tile = f"{vocabulary_tiles._NUM_POSITIONS},{vocabulary_tiles._NUM_WORDS}"
  stored = {
    dtype
    for computation in re.split(r"\n(?=\S)", compiled.as_text())
    if "fused" not in computation.split(maxsplit=1)[0]
    for dtype, layout in re.findall(
      rf" = (\w+)\[{tile}\]{{(.*?)}} (?!parameter|bitcast)", computation
    )
    if "S(1)" not in layout  # memory on the chip
  }
  # Slopes of a tile, which two products read, do on a v5p alone.
  is_v5p = devices[0].device_kind == "TPU v5"
  assert stored == ({"bf16"} if is_v5p else set())
  # The table in bfloat16, its slope in float32, and what is small beside both.
  memory = compiled.memory_analysis()
  assert memory.temp_size_in_bytes < 8 * _NUM_WORDS * _SIZE
