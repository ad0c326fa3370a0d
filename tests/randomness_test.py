"""Tests calm_jax/randomness.py: what a key depends on, and what it does not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.randomness import draw, position_keys, sample_keys, stream_key


def _ids(*ids):
  return jnp.asarray(ids, jnp.uint32)


def _bits(keys):
  return np.asarray(jax.random.key_data(keys))


def test_every_argument_gives_keys_of_its_own():
  found = [
    tuple(_bits(stream_key(seed, stream, step)))
    for seed, stream, step in itertools.product(
      (0, 1, 2**32 - 1), ("a", "b"), (0, 1)
    )
  ]
  assert len(set(found)) == 12
  key = stream_key(0, "a")
  keys = sample_keys(
    position_keys(key, _ids(0, 7), _ids(*range(5))), _ids(0, 9)
  )
  assert keys.shape == (2, 5, 2)
  assert len(np.unique(_bits(keys).reshape(-1, 2), axis=0)) == 20


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_the_environment_chooses_no_other_generator(generator):
  expected = stream_key(3, "a", 5)
  with jax.default_prng_impl(generator):
    found = stream_key(3, "a", 5)
  assert found.dtype == expected.dtype
  np.testing.assert_array_equal(_bits(found), _bits(expected))


def test_a_key_does_not_know_what_else_is_asked():
  key = stream_key(3, "a")
  whole = position_keys(key, _ids(4, 5, 2**32 - 1), _ids(0, 1, 2))
  part = position_keys(key, _ids(5), _ids(2))
  np.testing.assert_array_equal(_bits(part)[0, 0], _bits(whole)[1, 2])
  samples = sample_keys(whole, _ids(*range(6)))
  np.testing.assert_array_equal(
    _bits(sample_keys(part, _ids(3)))[0, 0, 0], _bits(samples)[1, 2, 3]
  )


def test_draws_are_those_of_each_key_alone():
  keys = position_keys(stream_key(0, "a"), _ids(0, 7), _ids(*range(3)))
  pair = lambda key: (jax.random.normal(key, (4,)), jax.random.uniform(key))
  normals, uniforms = draw(pair, keys)
  assert normals.shape == (2, 3, 4) and uniforms.shape == (2, 3)
  for at in np.ndindex(2, 3):
    one = pair(keys[at])
    np.testing.assert_array_equal(normals[at], one[0])
    np.testing.assert_array_equal(uniforms[at], one[1])


def test_golden():
  """The draws of a run must never change, or a restart changes them."""
  key = position_keys(stream_key(5, "train", 10), _ids(3), _ids(2))
  bits = _bits(sample_keys(key, _ids(1)))
  assert bits.reshape(-1).tolist() == [760525523, 3817160463]


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_a_seed_that_would_be_cut_is_refused(seed):
  with pytest.raises(ValueError, match="lies between 0 and"):
    stream_key(seed, "a")
