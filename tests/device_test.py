"""Fast versions at sizes that only a GPU or a TPU can bear, against float64.

On CPUs the same tests run at small sizes; see conftest.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from calm_jax.kernels.distance import Distance
from calm_jax.kernels.product import product
from calm_jax.layers import attention
from calm_jax.layers.linear import linear
from calm_jax.losses import vocabulary
from tests.devices import on_devices
from tests.losses import energy_test, vocabulary_test


@pytest.fixture
def pick():
  """Chooses the second of two sizes where there is a device."""
  return lambda small, large: small if jax.default_backend() == "cpu" else large


def _assert_near(found, expected, tolerance):
  found = np.asarray(found.astype(jnp.float32), np.float64)
  assert found.shape == expected.shape and np.all(np.isfinite(found))
  error = np.abs(found - expected).max() / np.abs(expected).max()
  assert error < tolerance, error


@on_devices
@pytest.mark.parametrize("implementation", ["xla", "pallas", "auto"])
@pytest.mark.parametrize(
  ("num_samples", "num_targets", "latent_size"),
  [(8, 100, 128), (7, 33, 130), (3, 6, 257)],
)
def test_energy_score(
  pick, implementation, num_samples, num_targets, latent_size
):
  energy_test.check(
    energy_test.make_inputs(
      (pick(1, 3), pick(3, 43)), num_samples, latent_size
    ),
    num_targets=num_targets,
    distance=Distance("energy", 1.0),
    use_antithetic_targets=num_targets == 6,
    implementation=implementation,
  )


def _attention_in_float64(query, key, value, segments, slope):
  """Value and the three gradients, all scores held."""
  query, key, value, slope = (
    np.asarray(it.astype(jnp.float32), np.float64)
    for it in (query, key, value, slope)
  )
  num_repeats = query.shape[2] // key.shape[2]
  wide = [np.repeat(it, num_repeats, axis=2) for it in (key, value)]
  scores = np.einsum("blhd,bshd->bhls", query, wide[0])
  scores /= query.shape[-1] ** 0.5
  is_seen = np.tril(segments[:, :, None] == segments[:, None, :])[:, None]
  scores = np.where(is_seen, scores, -np.inf)
  weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
  weights /= weights.sum(axis=-1, keepdims=True)
  weight_slope = np.einsum("blhd,bshd->bhls", slope, wide[1])
  mean = (weights * weight_slope).sum(axis=-1, keepdims=True)
  score_slope = weights * (weight_slope - mean) / query.shape[-1] ** 0.5
  shared = (*key.shape[:3], num_repeats, key.shape[3])
  return (
    np.einsum("bhls,bshd->blhd", weights, wide[1]),
    np.einsum("bhls,bshd->blhd", score_slope, wide[0]),
    np.einsum("bhls,blhd->bshd", score_slope, query).reshape(shared).sum(3),
    np.einsum("bhls,blhd->bshd", weights, slope).reshape(shared).sum(3),
  )


@on_devices
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("has_segments", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize(
  ("head_size", "groups", "lengths"),
  [
    (64, 4, (10, 1026)),
    (64, 2, (7, 515)),  # odd
    (128, 1, (10, 386)),
    (160, 4, (10, 386)),
    (256, 2, (10, 258)),
  ],
)
def test_attention(pick, head_size, groups, lengths, has_segments, dtype):
  rows, length = 2, pick(*lengths)
  keys = jax.random.split(jax.random.key(0), 4)
  query, key, value, slope = (
    jax.random.normal(k, (rows, length, heads, head_size)).astype(dtype)
    for k, heads in zip(keys, (4, groups, groups, 4), strict=True)
  )
  segments = np.zeros((rows, length), np.int32)
  if has_segments:
    segments[0, length // 3 :] = 1
    segments[1, length - 2 :] = 1
  given = jnp.asarray(segments) if has_segments else None

  @jax.jit
  def call(query, key, value):
    out, pull = jax.vjp(
      lambda *it: attention.causal_attention(*it, given), query, key, value
    )
    return out, *pull(slope)

  text = call.lower(query, key, value).compile().as_text()
  if jax.default_backend() == "tpu":
    assert "tpu_custom_call" in text
  if jax.default_backend() == "gpu":
    assert ("__cudnn" in text) == attention._fits_cudnn(query)
  expected = _attention_in_float64(query, key, value, segments, slope)
  # bfloat16: weights and results are rounded, each by half a unit of 2⁻⁸.
  tolerance = {"bfloat16": 2**-6, "float32": 1e-5}[dtype]
  for found, wanted in zip(call(query, key, value), expected, strict=True):
    assert found.dtype == dtype
    _assert_near(found, wanted, tolerance)


@on_devices
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_vocabulary(pick, implementation, dtype):
  """Three blocks of words on a device, the last of them short."""
  inputs = vocabulary_test.make_inputs(
    jnp.dtype(dtype),
    shape=(3, pick(7, 171)),
    size=pick(24, 200),
    num_words=pick(300, 20_011),
  )
  tolerance = {"float32": 1e-5, "bfloat16": 2**-6}[dtype]
  vocabulary_test.check(inputs, implementation, tolerance)
  vocabulary_test.check_sum(inputs, implementation, tolerance=tolerance)


@on_devices
@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_argmax(pick, implementation):
  """Whole numbers, so that products are exact and many words are equal."""
  shape, size, num_words = (3, pick(7, 501)), 8, pick(300, 20_011)
  keys = jax.random.split(jax.random.key(0), 2)
  hidden = jax.random.randint(keys[0], (*shape, size), -3, 4)
  embedding = jax.random.randint(keys[1], (num_words, size), -3, 4)
  scored = np.arange(num_words) % 5 != 1
  logits = np.asarray(hidden) @ np.asarray(embedding).T
  expected = np.where(scored, logits, -(10**6)).argmax(axis=-1)
  for dtype in ("float32", "bfloat16"):
    found = jax.jit(vocabulary.argmax, static_argnames="implementation")(
      hidden.astype(dtype),
      embedding.astype(jnp.float32),
      jnp.asarray(scored),
      implementation=implementation,
    )
    np.testing.assert_array_equal(found, expected)


@on_devices
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_linear(pick, dtype):
  """In TF32 the float32 layer would be off by some 1e-4."""
  # In bfloat16 the sum is rounded, and once more with the bias added.
  value_tolerance = {"float32": 1e-5, "bfloat16": 2**-7}[dtype]
  tolerance = {"float32": 1e-5, "bfloat16": 5e-3}[dtype]
  num_inputs, num_outputs, length = (
    pick(24, 1000),
    pick(16, 520),
    pick(31, 2049),
  )
  layer = linear(
    num_outputs,
    ("embed", "mlp"),
    dtype=jnp.dtype(dtype),
    init=nn.initializers.normal(1.0),
    use_bias=True,
  )
  keys = jax.random.split(jax.random.key(0), 4)
  x, slope = (
    jax.random.normal(key, (2, length, size)).astype(dtype)
    for key, size in zip(keys, (num_inputs, num_outputs), strict=False)
  )
  params = nn.unbox(layer.init(keys[2], x))["params"]
  params["bias"] = jax.random.normal(keys[3], (num_outputs,))

  @jax.jit
  def call(params, x):
    out, pull = jax.vjp(lambda p, x: layer.apply({"params": p}, x), params, x)
    return out, *pull(slope)

  out, found, x_slope = call(params, x)
  kernel = params["kernel"].astype(dtype)
  x, slope, kernel, bias = (
    np.asarray(it.astype(jnp.float32), np.float64)
    for it in (x, slope, kernel, params["bias"])
  )
  assert found["kernel"].dtype == found["bias"].dtype == jnp.float32
  _assert_near(out, x @ kernel + bias, value_tolerance)
  _assert_near(x_slope, slope @ kernel.T, value_tolerance)
  _assert_near(found["kernel"], np.einsum("abi,abj->ij", x, slope), tolerance)
  _assert_near(found["bias"], slope.sum(axis=(0, 1)), tolerance)


@on_devices
def test_weight_gradient_of_a_frequent_sign(pick):
  """A sum in bfloat16 stops growing at 256 times what is added."""
  num_positions = pick(1000, 100_000)
  x = jax.random.uniform(jax.random.key(0), (1, num_positions, 40))
  x = x.astype(jnp.bfloat16)

  def total(weight):
    y = product("btd,df->btf", x, weight)
    return jnp.sum(y.astype(jnp.float32) * x.astype(jnp.float32))

  found = jax.jit(jax.grad(total))(jnp.zeros((40, 40)))
  rows = np.asarray(x.astype(jnp.float32), np.float64)[0]
  np.testing.assert_allclose(found, rows.T @ rows, rtol=1e-3)
