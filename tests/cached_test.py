"""Tests tests/cached.py, and that the tests use it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from tests.cached import cached

_TRACES = {
  "jit": lambda function: jax.jit(function)(0.0),
  "grad": lambda function: jax.grad(function)(0.0),
  "vmap": lambda function: jax.vmap(function)(jnp.zeros(2)),
  "eval_shape": lambda function: jax.eval_shape(function, 0.0),
}


@pytest.mark.parametrize("trace", _TRACES.values(), ids=_TRACES)
def test_values_keep_nothing_of_their_first_caller(trace):
  def values():
    key = jax.random.key(0)
    draw = jax.jit(lambda key: jax.random.normal(key, (3,)))
    return key, draw(key)

  cached_values = cached(values)

  def call(x):
    cached_values()
    return x

  mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Explicit,))
  with jax.set_mesh(mesh):
    trace(call)
  (key, found), (_, expected) = cached_values(), values()
  assert cached_values()[1] is found
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(jax.random.normal(key, (3,)), expected)
  assert found.sharding == expected.sharding
  assert key.sharding == expected.sharding


def test_an_error_is_that_of_the_function():
  @cached
  def fail():
    raise ValueError("here")

  with pytest.raises(ValueError, match="here"):
    fail()


def test_no_test_caches_what_its_first_caller_left():
  root = pathlib.Path(__file__).parent
  for path in root.rglob("*.py"):
    if path != root / "cached.py":
      for decorator in ("cache", "lru_cache"):
        assert f"\n@functools.{decorator}" not in path.read_text(), path
