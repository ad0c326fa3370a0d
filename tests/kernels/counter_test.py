"""Tests calm_jax/kernels/counter.py: known answers, then as a generator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from calm_jax import randomness
from calm_jax.kernels import counter

# Known answers of the authors' library, Random123: key, counter, output.
_ZEROS, _ONES = (0, 0), (0xFFFFFFFF, 0xFFFFFFFF)
_PI_COUNTER, _PI_KEY = (0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344)


@pytest.mark.parametrize(
  ("key", "count", "answer"),
  [
    (_ZEROS, _ZEROS, (0x6B200159, 0x99BA4EFE)),
    (_ONES, _ONES, (0x1CB996FC, 0xBB002BE7)),
    (_PI_KEY, _PI_COUNTER, (0xC4923A9C, 0x483DF7A0)),
  ],
)
def test_threefry_gives_the_known_answers(key, count, answer):
  words = [jnp.uint32(word) for word in (*key, *count)]
  assert tuple(int(word) for word in counter.threefry(*words)) == answer


def _numpy_bits(key, pair, dimension):
  """The 20 rounds again, one rotation at a time, in Python's integers."""
  mask = 0xFFFFFFFF
  schedule = [*key, key[0] ^ key[1] ^ 0x1BD11BDA]
  x = [(pair | 1 << 31) + key[0] & mask, dimension + key[1] & mask]
  turns = [13, 15, 26, 6, 17, 29, 16, 24]
  for i in range(20):
    x[0] = x[0] + x[1] & mask
    turn = turns[i % 8]
    x[1] = ((x[1] << turn | x[1] >> (32 - turn)) & mask) ^ x[0]
    if i % 4 == 3:
      s = i // 4 + 1
      x = [
        x[0] + schedule[s % 3] & mask,
        x[1] + schedule[(s + 1) % 3] + s & mask,
      ]
  return x


def test_normals_are_box_and_muller_of_the_hash():
  key = randomness.stream_key(3, "targets", 7)
  drawn = np.asarray(counter.target_normals(key[None], 5, 33))[0]
  words = [int(word) for word in jax.random.key_data(key)]
  for m in range(5):
    for z in range(33):
      bits = _numpy_bits(words, m // 2, z)
      radius = np.sqrt(-2 * np.log(((bits[0] >> 1) + 0.5) / 2**31))
      angle = 2 * np.pi * bits[1] / 2**32
      wanted = radius * (np.sin(angle) if m % 2 else np.cos(angle))
      assert abs(drawn[m, z] - wanted) < 2e-6, (m, z)


def test_the_transform_is_exact_at_the_ends_of_its_range():
  bits = jnp.array([0, 1, 2, 3, 2**31, 2**32 - 2**16, 2**32 - 1], jnp.uint32)
  uniform = ((np.asarray(bits, np.int64) >> 1) + 0.5) / 2**31
  wanted = np.sqrt(-2 * np.log(uniform))
  np.testing.assert_allclose(
    counter._radius(bits), wanted, rtol=3e-7, atol=4e-4
  )
  np.testing.assert_allclose(
    counter._radius(bits[:5]), wanted[:5], rtol=3e-7, atol=0
  )
  bits = jnp.arange(0, 2**32, 2**22 - 1, dtype=jnp.uint32)
  angle = 2 * np.pi * np.asarray(bits, np.float64) / 2**32
  cosine, sine = counter._cosine_and_sine(bits)
  np.testing.assert_allclose(cosine, np.cos(angle), atol=2e-7)
  np.testing.assert_allclose(sine, np.sin(angle), atol=2e-7)


@pytest.fixture(scope="module")
def draws():
  """[steps, rows, chunks, M, Z] = 3.1 million normals."""

  def at_step(step):
    key = randomness.stream_key(0, "targets", step)
    rows, chunks = jnp.arange(4, dtype=jnp.uint32), jnp.arange(16)
    keys = randomness.position_keys(key, rows, chunks.astype(jnp.uint32))
    return counter.target_normals(keys, 100, 120)

  return np.asarray(jax.jit(jax.vmap(at_step))(jnp.arange(4)), np.float64)


def test_moments(draws):
  x = draws.ravel()
  for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
    error = (np.mean(x**power) - moment) / np.sqrt(variance / x.size)
    assert abs(error) < 4.5, (power, error)


def test_distribution(draws):
  x = draws.ravel()
  assert stats.kstest(x[::7], "norm").pvalue > 1e-3
  edges = stats.norm.ppf(np.linspace(0, 1, 1001)[1:-1])
  counts = np.bincount(np.searchsorted(edges, x), minlength=1000)
  assert stats.chisquare(counts).pvalue > 1e-3


def test_tails(draws):
  x = np.abs(draws.ravel())
  for edge in (3.0, 4.0, 4.5):
    expected = x.size * 2 * stats.norm.sf(edge)
    error = (np.sum(x > edge) - expected) / np.sqrt(expected)
    assert abs(error) < 4.5, (edge, error)
  assert np.max(x) < 6.7


@pytest.mark.parametrize("power", [1, 2], ids=["values", "squares"])
@pytest.mark.parametrize(
  ("axis", "lag"),
  [(0, 1), (1, 1), (2, 1), (3, 1), (3, 2), (3, 50), (4, 1), (4, 2), (4, 32)],
  ids=str,
)
def test_neighbours_are_uncorrelated(draws, axis, lag, power):
  """Axes: step, row, chunk, target m, dimension z."""
  x = draws**power - (power == 2)
  size = x.shape[axis]
  near = np.take(x, range(size - lag), axis)
  far = np.take(x, range(lag, size), axis)
  error = np.mean(near * far) * np.sqrt(near.size) / np.mean(x**2)
  assert abs(error) < 4.5, error


def test_no_draw_repeats(draws):
  # 64 bits a hash: among 1.5 million none should meet another.
  pairs = draws.reshape(-1, 50, 2, 120)
  pairs = np.stack([pairs[:, :, 0].ravel(), pairs[:, :, 1].ravel()], -1)
  bits = pairs.astype(np.float32).view(np.uint64).ravel()
  # The map to float32 drops some of the 64 bits, so a few may still meet.
  assert bits.size - np.unique(bits).size < 5


def test_a_draw_depends_on_its_own_position_only():
  key = randomness.stream_key(0, "targets")
  ids = jnp.arange(6, dtype=jnp.uint32)
  keys = randomness.position_keys(key, ids[:2], ids)
  whole = counter.target_normals(keys, 7, 10)
  part = counter.target_normals(keys[1:, 2:4], 4, 6)
  np.testing.assert_array_equal(whole[1:, 2:4, :4, :6], part)


def test_antithetic_targets_are_mirrored():
  keys = jax.random.split(jax.random.key(0), 3)
  pairs = counter.target_normals(keys, 6, 9, use_antithetic_targets=True)
  np.testing.assert_array_equal(pairs[:, 0::2], -pairs[:, 1::2])
  plain = counter.target_normals(keys, 6, 9)
  np.testing.assert_array_equal(pairs[:, 0::2], plain[:, 0::2])


def test_keys_of_another_generator_are_refused():
  with pytest.raises(ValueError, match="threefry2x32"):
    counter.key_words(jax.random.split(jax.random.key(0, impl="rbg"), 3))
