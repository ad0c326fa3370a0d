"""Tests calm_jax/layers/linear.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from calm_jax.layers.linear import embedding, linear
from tests.devices import on_devices


@on_devices
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_a_frequent_id_add_up(dtype):
  table = embedding(
    4, 2, dtype=jnp.dtype(dtype), init=jax.nn.initializers.normal(1.0)
  )
  ids = np.repeat(np.int32([0, 1, 3]), [5000, 1, 300])
  params = table.init(jax.random.key(0), ids)
  rows = table.apply(params, ids)
  values = jax.tree.leaves(params)[0]
  np.testing.assert_array_equal(rows, values[ids].astype(dtype))
  gradient = jax.grad(lambda p: table.apply(p, ids).astype("float32").sum())
  [found] = jax.tree.leaves(gradient(params))
  assert found.dtype == jnp.float32
  counts = np.bincount(ids, minlength=4)
  np.testing.assert_array_equal(found, np.tile(counts[:, None], 2))


_SHAPES = {
  "matrix": ((6,), ("embed", "mlp"), 1),
  "heads": ((2, 3), ("embed", "heads", "head_dim"), 1),
  "from heads": ((6,), ("heads", "head_dim", "embed"), 2),
}


@pytest.mark.parametrize("name", _SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_value_and_gradients_beside_flax(name, dtype):
  features, axes, num_input_axes = _SHAPES[name]
  options = {"dtype": jnp.dtype(dtype), "use_bias": True}
  init = nn.initializers.xavier_uniform()
  layer = linear(
    features, axes, init=init, num_input_axes=num_input_axes, **options
  )
  plain = nn.DenseGeneral(
    features,
    axis=tuple(range(-num_input_axes, 0)),
    kernel_init=init,
    **options,
  )
  x = jax.random.normal(jax.random.key(0), (5, 7, 4, 3)[: 2 + num_input_axes])
  x = x.astype(dtype)
  params = nn.unbox(layer.init(jax.random.key(1), x))
  expected = plain.init(jax.random.key(1), x)
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  params["params"]["bias"] += 0.5

  def total(params, module):
    y = module.apply(params, x)
    return jnp.square(y.astype(jnp.float32)).sum(), y

  found, y = jax.grad(total, has_aux=True)(params, layer)
  wanted, plain_y = jax.grad(total, has_aux=True)(params, plain)
  assert y.dtype == plain_y.dtype == dtype
  tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
  assert_near = lambda a, b: np.testing.assert_allclose(
    a.astype("float32"),
    b.astype("float32"),
    atol=tolerance * float(abs(b).max()),
  )
  assert_near(y, plain_y)
  jax.tree.map(assert_near, found, wanted)


@on_devices
def test_gradients_of_many_positions_are_those_of_float64():
  layer = linear(
    8,
    ("embed", "mlp"),
    dtype=jnp.bfloat16,
    init=nn.initializers.normal(1.0),
    use_bias=True,
  )
  x = jax.random.uniform(jax.random.key(0), (4, 1024, 16)).astype("bfloat16")
  slope = jax.random.uniform(jax.random.key(1), (4, 1024, 8))
  slope = slope.astype("bfloat16").astype("float32")
  params = layer.init(jax.random.key(2), x)
  total = lambda p: (layer.apply(p, x).astype("float32") * slope).sum()
  found = nn.unbox(jax.jit(jax.grad(total))(params))["params"]
  rows = np.asarray(x, np.float64).reshape(-1, 16)
  slopes = np.asarray(slope, np.float64).reshape(-1, 8)
  np.testing.assert_allclose(found["kernel"], rows.T @ slopes, rtol=1e-4)
  np.testing.assert_allclose(found["bias"], slopes.sum(axis=0), rtol=1e-4)
