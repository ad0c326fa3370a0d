"""Diffusion as functions of arrays, against float64 NumPy and the recording."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.model.heads import denoising
from tests.interop import numpy_model

_RECORDED = pathlib.Path(__file__).parents[4] / "shared" / "parity" / "io.npz"
_SIZE = 5


def _inputs(num=12, seed=0):
  rng = np.random.default_rng(seed)
  t = np.array([0, 0, 1, 2, 997, 998, 999, 10, 100, 300, 500, 900], np.int32)
  z, noise = rng.normal(size=(2, num, _SIZE)).astype(np.float32)
  out = 0.7 * rng.normal(size=(num, 2 * _SIZE)).astype(np.float32)
  return z, noise, t, out


def _error(found, expected):
  return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


def test_full_schedule_is_the_product_of_its_betas():
  schedule = denoising.noise_schedule(1000)
  beta = numpy_model.betas()
  a = np.cumprod(1 - beta)
  np.testing.assert_array_equal(schedule.timesteps, np.arange(1000))
  np.testing.assert_allclose(schedule.sqrt_signal, np.sqrt(a), rtol=1e-6)
  np.testing.assert_allclose(schedule.sqrt_noise, np.sqrt(1 - a), rtol=1e-6)
  np.testing.assert_allclose(schedule.max_log_variance, np.log(beta), rtol=1e-6)
  # The cap on β makes the product differ from the closed form at the end.
  closed = np.cos((1 + 0.008) / 1.008 * np.pi / 2) ** 2
  assert schedule.sqrt_signal[-1] ** 2 > 1e3 * closed


@pytest.mark.parametrize("num_steps", [2, 3, 7, 10, 100, 333, 999, 1000])
def test_kept_steps_span_the_process(num_steps):
  schedule = denoising.noise_schedule(num_steps)
  steps = schedule.timesteps
  np.testing.assert_array_equal(steps, numpy_model.timesteps(num_steps))
  assert steps[0] == 0 and steps[-1] == 999
  assert len(set(steps.tolist())) == num_steps
  # The kept process has the signal of the full one at every kept step.
  full = denoising.noise_schedule(1000)
  np.testing.assert_array_equal(schedule.sqrt_signal, full.sqrt_signal[steps])
  assert all(np.isfinite(values).all() for values in schedule)


def test_one_step_starts_from_noise():
  schedule = denoising.noise_schedule(1)
  assert schedule.timesteps.tolist() == [999]
  assert all(np.isfinite(values).all() for values in schedule)


def test_added_noise_matches_float64():
  z, noise, t, _ = _inputs()
  schedule = denoising.noise_schedule(1000)
  found = denoising.add_noise(schedule, z, jnp.asarray(t), noise)
  assert _error(found, numpy_model.noised(z, noise, t)) < 1e-6


@pytest.mark.parametrize("num_steps", [2, 10, 100, 1000])
def test_reverse_step_matches_float64_through_the_predicted_latent(num_steps):
  z, _, _, out = _inputs()
  schedule = denoising.noise_schedule(num_steps)
  beta = numpy_model.betas(numpy_model.timesteps(num_steps))
  for index in sorted({0, 1, num_steps // 2, num_steps - 1}):
    found = denoising.p_mean_log_variance(
      schedule, out, z, jnp.full(len(z), index)
    )
    expected = numpy_model.reverse_step(beta, out.astype(float), z, index)
    for a, b in zip(found, expected, strict=True):
      assert _error(a, b) < 2e-6, index


@pytest.mark.parametrize(("num_steps", "rtol"), [(100, 0.08), (1000, 0.02)])
def test_reverse_steps_with_the_true_noise_sample_the_data(num_steps, rtol):
  """For z ~ N(m, s²) the best ε̂ is known: √(1−a)·(x − √a·m)/(a·s² + 1 − a)."""
  mean, std = np.array([[0.7, -1.2]]), np.array([[0.3, 1.5]])
  num = 20_000
  schedule = denoising.noise_schedule(num_steps)

  def step(x, inputs):
    index, key = inputs
    a = jnp.asarray(schedule.sqrt_signal)[index] ** 2
    epsilon = jnp.asarray(schedule.sqrt_noise)[index] * (x - jnp.sqrt(a) * mean)
    epsilon /= a * std**2 + 1 - a
    output = jnp.concatenate([epsilon, jnp.full_like(x, -1)], axis=-1)
    p_mean, log_variance = denoising.p_mean_log_variance(
      schedule, output, x, jnp.full(num, index)
    )
    noise = jnp.exp(0.5 * log_variance) * jax.random.normal(key, x.shape)
    return p_mean + jnp.where(index > 0, noise, 0), None

  first, rest = jax.random.split(jax.random.key(0))
  inputs = jnp.arange(num_steps)[::-1], jax.random.split(rest, num_steps)
  start = jax.random.normal(first, (num, 2))
  x, _ = jax.jit(lambda: jax.lax.scan(step, start, inputs))()
  np.testing.assert_allclose(x.mean(axis=0), mean[0], atol=0.045)
  # With the smaller of both variances, few steps lose some of the spread.
  np.testing.assert_allclose(x.std(axis=0), std[0], rtol=rtol)


def test_an_error_at_the_first_step_of_sampling_grows_by_twenty_thousand():
  """√(1/a_999): what an inexact ε̂ costs where nothing is clipped."""
  for num_steps in (100, 1000):
    growth = 1 / denoising.noise_schedule(num_steps).sqrt_signal[-1]
    assert 2.0e4 < growth < 2.1e4


def test_loss_matches_float64_at_both_ends():
  z, noise, t, out = _inputs()
  schedule = denoising.noise_schedule(1000)
  found = denoising.denoising_loss(schedule, out, z, jnp.asarray(t), noise)
  expected = numpy_model.diffusion_loss(
    out.astype(float), z.astype(float), t, noise.astype(float)
  )
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(a, b, rtol=3e-5)


def test_bound_is_zero_where_both_steps_agree():
  z, noise, t, out = _inputs()
  out[:, :_SIZE] = noise
  out[:, _SIZE:] = -1  # the log-variance of the true step
  keep = t > 0
  terms = denoising.denoising_loss(
    denoising.noise_schedule(1000),
    out[keep],
    z[keep],
    jnp.asarray(t[keep]),
    noise[keep],
  )
  np.testing.assert_array_equal(terms.mse, 0)
  np.testing.assert_array_equal(terms.vb, 0)


def test_bins_share_the_whole_line():
  edges = np.arange(-1, 1 + 1e-9, 2 / 255, dtype=np.float32)
  ones = np.ones_like(edges)
  log_p = denoising.discretised_log_likelihood(edges, 0.1 * ones, -3 * ones)
  np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-5)


def test_bound_trains_the_variance_alone():
  z, noise, t, out = _inputs()
  schedule = denoising.noise_schedule(1000)

  def bound(out):
    return denoising.denoising_loss(
      schedule, out, z, jnp.asarray(t), noise
    ).vb.sum()

  gradient = jax.grad(bound)(jnp.asarray(out))
  np.testing.assert_array_equal(gradient[:, :_SIZE], 0)
  assert (np.abs(gradient[:, _SIZE:]).max(axis=-1) > 0).all()


def test_gradient_stays_finite_far_outside_the_variance_range():
  z, noise, t, out = _inputs()
  out[:, _SIZE:] *= 20

  def bound(out):
    return denoising.denoising_loss(
      denoising.noise_schedule(1000), out, z, jnp.asarray(t), noise
    ).vb.sum()

  assert np.isfinite(jax.grad(bound)(jnp.asarray(out))).all()


@pytest.mark.skipif(not _RECORDED.exists(), reason="no recorded outputs")
def test_steps_are_those_recorded():
  recorded = np.load(_RECORDED)["diffusion_sample_timesteps"]
  steps = denoising.noise_schedule(100).timesteps
  np.testing.assert_array_equal(steps, recorded)
