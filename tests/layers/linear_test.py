"""Tests calm_jax/layers/linear.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.layers.linear import embedding


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
