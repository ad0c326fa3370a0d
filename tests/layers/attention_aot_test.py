"""Compiles attention for real TPU topologies, with no TPU at hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import (
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
  SingleDeviceSharding,
)

from calm_jax.layers.attention import causal_attention
from tests.topologies import absent_devices, no_cache

pytestmark = pytest.mark.aot


@pytest.fixture(scope="module")
def devices():
  devices = absent_devices("v5e:2x4")
  with no_cache():
    yield np.array(devices)


@pytest.mark.parametrize(
  ("sizes", "num_chunks", "groups", "size", "has_segments"),
  [
    ((1, 1, 1, 1), 2048, 16, 48, False),  # the widths of sizes s, m, l and xl
    ((1, 1, 1, 1), 1024, 4, 64, True),
    ((1, 1, 1, 1), 1024, 4, 96, False),
    ((1, 1, 1, 1), 1024, 4, 160, False),
    ((1, 1, 1, 1), 100, 16, 32, True),
    ((2, 2, 2, 1), 1024, 4, 64, True),
    ((1, 2, 4, 1), 1024, 2, 64, False),
    ((1, 2, 2, 2), 1024, 4, 64, True),
  ],
)
def test_no_scores_are_held(
  devices, sizes, num_chunks, groups, size, has_segments
):
  mesh = Mesh(
    devices[: np.prod(sizes)].reshape(sizes),
    ("data", "fsdp", "tensor", "sequence"),
    axis_types=(AxisType.Auto,) * 4,
  )
  num_rows, num_heads = 4, 16
  rows = ("data", "fsdp")

  def shape(*rest, dtype, spec):
    sharding = NamedSharding(mesh, PartitionSpec(rows, "sequence", *spec))
    return jax.ShapeDtypeStruct(
      (num_rows, num_chunks, *rest), dtype, sharding=sharding
    )

  def total(query, key, value, segments):
    segments = segments if has_segments else None
    out = causal_attention(query, key, value, segments)
    return jnp.sum(out.astype(jnp.float32))

  heads = [
    shape(
      n,
      size,
      dtype=jnp.bfloat16,
      spec=["tensor"] if n % mesh.shape["tensor"] == 0 else [],
    )
    for n in (num_heads, groups, groups)
  ]
  segments = shape(dtype=jnp.int32, spec=[])
  with jax.set_mesh(mesh):
    lowered = jax.jit(jax.value_and_grad(total, (0, 1, 2))).lower(
      *heads, segments
    )
    compiled = lowered.compile()
  assert compiled.as_text().count('"tpu_custom_call"') >= 3
  num_scores = num_rows * num_heads * num_chunks**2 / np.prod(sizes)
  if num_chunks > 1000:
    temporaries = compiled.memory_analysis().temp_size_in_bytes
    assert temporaries < 4 * num_scores / 2


@pytest.mark.parametrize("size", [64, 160])
def test_exact_products_of_float32_compile(devices, size):
  place = SingleDeviceSharding(devices[0])
  heads = [
    jax.ShapeDtypeStruct((4, 1024, n, size), jnp.float32, sharding=place)
    for n in (16, 4, 4)
  ]
  total = lambda *heads: jnp.sum(causal_attention(*heads))
  compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(*heads).compile()
  assert compiled.as_text().count('"tpu_custom_call"') == 3
  num_bytes = 4 * 4 * 16 * 1024**2  # of the scores
  assert compiled.memory_analysis().temp_size_in_bytes < num_bytes
