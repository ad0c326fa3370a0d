"""Tests calm_jax/losses/energy.py against float64 NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import randomness
from calm_jax.kernels import counter
from calm_jax.kernels.distance import Distance
from calm_jax.losses import energy
from tests.devices import on_devices

_IMPLEMENTATIONS = ["reference", "xla", "pallas"]


def numpy_energy(samples, targets, alpha):
  """Loss, terms and d loss/d samples in float64, from the formula."""
  x, y = np.float64(samples), np.float64(targets)
  num_samples, num_targets = x.shape[-2], y.shape[-2]

  def distances(a, b):
    difference = a[..., :, None, :] - b[..., None, :, :]
    norm = np.sqrt(np.sum(difference**2, -1))
    safe = np.where(norm > 0, norm, 1)
    slope = np.where(norm > 0, alpha * safe ** (alpha - 2), 0)
    return norm**alpha, np.sum(slope[..., None] * difference, -2)

  value, slope = distances(x, y)
  per_target = 2 / (num_samples * num_targets)
  fidelity, gradient = per_target * value.sum((-2, -1)), per_target * slope
  value, slope = distances(x, x)
  per_sample = 1 / (num_samples * (num_samples - 1))
  diversity = per_sample * value.sum((-2, -1))
  return (
    fidelity - diversity,
    fidelity,
    diversity,
    gradient - 2 * per_sample * slope,
  )


def error(actual, expected):
  actual, expected = np.float64(actual), np.float64(expected)
  assert actual.shape == expected.shape
  assert np.all(np.isfinite(actual))
  scale = np.max(np.abs(expected))
  return np.max(np.abs(actual - expected)) / (scale if scale else 1.0)


def make_inputs(shape, num_samples, latent_size, scale=1.0, dtype=jnp.float32):
  """Random samples, mean, log_std and keys of positions [*shape]."""
  keys = jax.random.split(jax.random.key(0), (3,))
  samples = scale * jax.random.normal(
    keys[0], (*shape, num_samples, latent_size)
  )
  mean = jax.random.normal(keys[1], (*shape, latent_size))
  log_std = -1.0 + 0.5 * jax.random.normal(keys[2], (*shape, latent_size))
  position_keys = jax.random.split(jax.random.key(1), shape)
  return samples.astype(dtype), mean, log_std, position_keys


def float64_targets(mean, log_std, keys, num_targets, antithetic=False):
  noise = counter.target_normals(
    keys, num_targets, mean.shape[-1], use_antithetic_targets=antithetic
  )
  std = np.exp(np.float64(log_std))[..., None, :]
  return np.float64(mean)[..., None, :] + std * np.float64(noise)


def value_and_gradient(inputs, **settings):
  def total(samples):
    loss, terms = energy.energy_loss(samples, *inputs[1:], **settings)
    return jnp.sum(loss), (loss, *terms)

  gradient, results = jax.jit(jax.grad(total, has_aux=True))(inputs[0])
  return *results, gradient


def check(inputs, tolerance=1e-5, **settings):
  targets = float64_targets(
    *inputs[1:],
    settings["num_targets"],
    settings.get("use_antithetic_targets", False),
  )
  expected = numpy_energy(inputs[0], targets, settings["distance"].parameter)
  actual = value_and_gradient(inputs, **settings)
  for name, a, b in zip(
    ("loss", "fidelity", "diversity", "gradient"), actual, expected, strict=True
  ):
    assert error(a, b) < tolerance, (name, error(a, b))


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
@pytest.mark.parametrize(
  ("num_samples", "num_targets", "latent_size", "alpha"),
  [
    (2, 1, 1, 1.0),
    (2, 7, 3, 0.5),
    (8, 100, 128, 1.0),
    (3, 16, 130, 1.25),
    (8, 33, 32, 1.75),
  ],
)
def test_matches_float64(
  implementation, num_samples, num_targets, latent_size, alpha
):
  check(
    make_inputs((2, 3), num_samples, latent_size),
    num_targets=num_targets,
    distance=Distance("energy", alpha),
    implementation=implementation,
  )


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_closed_form(implementation):
  """One dimension, std 0: targets all at 0, samples at 3 and −1."""
  samples = jnp.array([[3.0], [-1.0]])
  loss, terms = energy.energy_loss(
    samples,
    jnp.zeros(1),
    jnp.full(1, -jnp.inf),
    jax.random.key(0),
    num_targets=5,
    implementation=implementation,
  )
  np.testing.assert_allclose(terms.fidelity, 2 * (3 + 1) / 2, rtol=1e-6)
  np.testing.assert_allclose(terms.diversity, 4.0, rtol=1e-6)
  np.testing.assert_allclose(loss, 0.0, atol=1e-6)


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_coinciding_samples_do_not_push_each_other(implementation, alpha):
  samples, *rest = make_inputs((2,), 1, 16)
  check(
    (jnp.repeat(samples, 4, axis=1), *rest),
    num_targets=10,
    distance=Distance("energy", alpha),
    implementation=implementation,
  )


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.5])
def test_gradient_is_zero_where_everything_coincides(implementation, alpha):
  _, mean, _, keys = make_inputs((3,), 1, 16)
  samples = jnp.repeat(mean[:, None], 4, axis=1)
  results = value_and_gradient(
    (samples, mean, jnp.full_like(mean, -jnp.inf), keys),
    num_targets=10,
    distance=Distance("energy", alpha),
    implementation=implementation,
  )
  for result in results:
    np.testing.assert_array_equal(result, np.zeros_like(result))


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
@pytest.mark.parametrize("place", [0, 1, 2], ids=["samples", "mean", "log_std"])
def test_nan_makes_loss_and_gradient_nan(implementation, place):
  inputs = list(make_inputs((3,), 4, 5))
  inputs[place] = inputs[place].at[1, ..., 2].set(jnp.nan)
  loss, fidelity, _, gradient = value_and_gradient(
    inputs, num_targets=3, implementation=implementation
  )
  for found in (loss, fidelity, gradient.sum(axis=(1, 2))):
    np.testing.assert_array_equal(np.isnan(found), [False, True, False])


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_samples_far_closer_to_the_mean_than_the_targets(implementation):
  samples, mean, log_std, keys = make_inputs((4,), 8, 32)
  samples = mean[:, None] + 1e-4 * samples
  check(
    (samples, mean, log_std, keys),
    num_targets=20,
    distance=Distance("energy", 1.0),
    implementation=implementation,
  )


@on_devices
def test_narrow_posterior_far_from_the_origin():
  # ‖x‖² + ‖y‖² − 2x·y has no digit left here.
  samples, mean, log_std, keys = make_inputs((4,), 8, 32)
  mean = jnp.round(256 * mean) / 256 + 64.0  # so that x − mean is exact
  samples = mean[:, None] + jnp.round(512 * samples) / 2**18
  check(
    (samples, mean, log_std - 6.0, keys),
    num_targets=20,
    distance=Distance("energy", 1.0),
    implementation="xla",
  )


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_antithetic_targets(implementation):
  check(
    make_inputs((4,), 3, 20),
    num_targets=6,
    distance=Distance("energy", 1.0),
    use_antithetic_targets=True,
    implementation=implementation,
  )


@on_devices
@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_bfloat16_samples(implementation):
  inputs = make_inputs((4,), 8, 64, dtype=jnp.bfloat16)
  targets = float64_targets(*inputs[1:], 20)
  expected = numpy_energy(inputs[0].astype(jnp.float32), targets, 1.0)
  actual = value_and_gradient(
    inputs, num_targets=20, implementation=implementation
  )
  assert actual[-1].dtype == jnp.bfloat16
  for a, b in zip(actual[:-1], expected[:-1], strict=True):
    assert error(a, b) < 1e-5
  # Half a unit in the last of bfloat16's 8 bits, once to store, once to scale.
  assert error(actual[-1].astype(jnp.float32), expected[-1]) < 2**-8


_KERNELS = [Distance("gaussian", 3.0), Distance("inverse_multiquadric", 3.0)]


@on_devices
@pytest.mark.parametrize("distance", _KERNELS, ids=lambda it: it.kind)
@pytest.mark.parametrize("samples_differ", [True, False])
def test_kernel_scores_are_the_same_by_every_way(distance, samples_differ):
  samples, *others = make_inputs((2, 3), 4, 20)
  if not samples_differ:
    samples = jnp.broadcast_to(samples[..., :1, :], samples.shape)
  inputs = (samples, *others)
  expected, *others = (
    value_and_gradient(
      inputs, num_targets=7, distance=distance, implementation=name
    )
    for name in ("reference", "xla", "pallas")
  )
  for actual in others:
    for a, b in zip(actual, expected, strict=True):
      assert error(a, np.float64(b)) < 1e-5


def test_gaussian_kernel_score_has_its_closed_form():
  """E k(x, y) of two normal distributions is a normal density in h² + σ²."""
  num_positions, size, h, shift, spread = 4000, 3, 2.0, 0.7, 1.5
  key = jax.random.key(5)
  noise = jax.random.normal(key, (num_positions, 2, size))
  keys = jax.random.split(jax.random.key(6), num_positions)
  loss, _ = energy.energy_loss(
    shift + spread * noise,
    jnp.zeros((num_positions, size)),
    jnp.zeros((num_positions, size)),
    keys,
    num_targets=4,
    distance=Distance("gaussian", h),
  )

  def mean_kernel(distance, variance):
    total = h**2 + variance
    power = np.exp(-size * distance**2 / (2 * total))
    return (h**2 / total) ** (size / 2) * power

  expected = 2 * (1 - mean_kernel(shift, 1 + spread**2))
  expected -= 1 - mean_kernel(0.0, 2 * spread**2)
  standard_error = np.std(loss) / np.sqrt(num_positions)
  assert abs(np.mean(loss) - expected) < 4 * standard_error


@on_devices
def test_loss_without_gradient_is_the_same():
  inputs = make_inputs((2, 5), 4, 24)
  settings = {
    "num_targets": 9,
    "distance": Distance("energy", 1.5),
    "implementation": "xla",
  }
  loss, _ = energy.energy_loss(*inputs, **settings)
  np.testing.assert_allclose(
    loss, value_and_gradient(inputs, **settings)[0], rtol=1e-6
  )


@pytest.mark.parametrize("implementation", _IMPLEMENTATIONS)
def test_gradient_flows_from_the_loss_to_the_samples_only(implementation):
  inputs = make_inputs((3,), 4, 8)

  def total(samples, mean, log_std, weight):
    loss, terms = energy.energy_loss(
      samples,
      mean,
      log_std,
      inputs[3],
      num_targets=6,
      implementation=implementation,
    )
    return jnp.sum(loss) + weight * jnp.sum(terms.fidelity + terms.diversity)

  gradients = [
    jax.grad(total, argnums=(0, 1, 2))(*inputs[:3], weight)
    for weight in (0.0, 1.0)
  ]
  assert np.all(gradients[0][0] != 0)
  np.testing.assert_array_equal(gradients[0][0], gradients[1][0])
  for gradient, weight in itertools.product((1, 2), (0, 1)):
    np.testing.assert_array_equal(gradients[weight][gradient], 0.0)


def test_each_position_is_scored_alone():
  samples, mean, log_std, keys = make_inputs((2, 5), 4, 24)
  settings = {"num_targets": 9, "implementation": "xla"}
  whole, _ = energy.energy_loss(samples, mean, log_std, keys, **settings)
  part, _ = energy.energy_loss(
    samples[1:, 3], mean[1:, 3], log_std[1:, 3], keys[1:, 3], **settings
  )
  np.testing.assert_allclose(whole[1:, 3], part, rtol=1e-6)


def test_positions_differ_in_their_draws():
  samples, mean, log_std, _ = make_inputs((1, 1), 4, 24)
  keys = randomness.position_keys(
    randomness.stream_key(0, "targets"),
    jnp.arange(2, dtype=jnp.uint32),
    jnp.arange(3, dtype=jnp.uint32),
  )
  tiled = [
    jnp.tile(a, (2, 3) + (1,) * (a.ndim - 2)) for a in (samples, mean, log_std)
  ]
  loss, _ = energy.energy_loss(*tiled, keys, num_targets=5)
  assert np.unique(np.asarray(loss)).size == 6


def test_expected_loss_is_lowest_for_the_posterior_itself():
  """The score is proper: too narrow, too wide and shifted all score worse."""
  shape, latent_size = (4000,), 4
  keys = jax.random.split(jax.random.key(2), shape)
  noise = jax.random.normal(jax.random.key(3), (*shape, 2, latent_size))
  zeros = jnp.zeros((*shape, latent_size))

  def score(samples):
    loss, _ = energy.energy_loss(samples, zeros, zeros, keys, num_targets=8)
    return np.asarray(loss)

  best = score(noise)
  for other in (0.7 * noise, 1.4 * noise, noise + 0.3):
    difference = score(other) - best
    stderr = np.std(difference) / np.sqrt(difference.size)
    assert np.mean(difference) > 5 * stderr


def test_memory_does_not_grow_with_the_targets():
  inputs = make_inputs((64,), 8, 32)

  def temporaries(num_targets, implementation):
    def total(samples):
      loss, _ = energy.energy_loss(
        samples,
        *inputs[1:],
        num_targets=num_targets,
        implementation=implementation,
      )
      return jnp.sum(loss)

    compiled = jax.jit(jax.value_and_grad(total)).lower(inputs[0]).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(10, "xla") == temporaries(1000, "xla")
  assert temporaries(100, "xla") <= temporaries(100, "reference") / 20


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"num_targets": 0}, "num_targets is 0"),
    ({"num_targets": 3, "use_antithetic_targets": True}, "even"),
  ],
)
def test_impossible_settings_are_refused(change, words):
  inputs = make_inputs((2,), 3, 4)
  with pytest.raises(ValueError, match=words):
    energy.energy_loss(*inputs, **{"num_targets": 4, **change})


def test_an_impossible_distance_is_refused():
  with pytest.raises(ValueError, match=r"alpha is 2\.0"):
    Distance("energy", 2.0)
  with pytest.raises(ValueError, match="'cosine'; choose one of energy"):
    Distance("cosine", 1.0)


def test_a_single_sample_is_refused():
  with pytest.raises(ValueError, match="N = 2"):
    energy.energy_loss(*make_inputs((2,), 1, 4), num_targets=4)
