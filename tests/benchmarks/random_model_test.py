"""Tests benchmarks/random_model.py by what its models draw."""

import jax
import jax.numpy as jnp

from tests.benchmarks import tiny


def test_the_model_draws_equal_chunks_as_often_as_asked():
  model = tiny.model(4, 6)
  ids = jnp.arange(100, dtype=jnp.uint32)
  hidden = jax.random.normal(jax.random.key(1), (8, 64))
  draw = jax.jit(lambda params, *rest: model.sampler_fn(params).draw(*rest))
  chunks = draw(
    model.params, hidden, jax.random.split(jax.random.key(2), 8), ids
  )
  is_same = (chunks[:, :, None] == chunks[:, None]).all(axis=-1)
  share = (is_same.sum() - 800) / (8 * 100 * 99)
  assert abs(share - 0.3) < 0.1
