"""The diffusion head: network, loss and sampler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from calm_jax.config import DiffusionHeadConfig
from calm_jax.layers.parameters import init_params, logical_axes
from calm_jax.model.heads import denoising
from calm_jax.model.heads.diffusion import DiffusionHead
from calm_jax.randomness import position_keys, stream_key
from tests.cached import cached
from tests.interop import numpy_model
from tests.model.heads.adaln_weights import adaln_weights
from tests.perturbation import perturb, relative_error

_D, _Z = 12, 5


def _head(**kwargs):
  config = DiffusionHeadConfig(num_mlp_layers=2, num_samples=3, **kwargs)
  return DiffusionHead(config, _D, _Z, kwargs.get("dtype", "float32"))


def _hidden(shape=(2, 3), seed=0):
  return jax.random.normal(jax.random.key(seed), (*shape, _D))


def _inputs():
  return (
    _hidden(),
    jnp.ones((2, 3, 1, _Z)),
    jnp.full((2, 3, 1), 7, jnp.int32),
  )


def _initial_params(head):
  init = jax.jit(lambda key: init_params(head, key, *_inputs()))
  return init(jax.random.key(0))


@cached
def _params():
  return perturb(_initial_params(_head()))


def _apply(head, *args, params=None, method="__call__"):
  call = jax.jit(functools.partial(head.apply, method=method))
  return call({"params": _params() if params is None else params}, *args)


def _keys(shape=(2, 3), step=0):
  rows, chunks = (jnp.arange(n, dtype=jnp.uint32) for n in shape)
  return position_keys(stream_key(0, "test", step), rows, chunks)


def test_network_matches_float64():
  head = _head()
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, _Z)).astype(np.float32)
  times = rng.integers(0, 1000, (2, 3, 4)).astype(np.int32)
  times[0, 0] = [0, 1, 998, 999]
  found = _apply(head, _hidden(), x, times)
  expected = numpy_model.adaln(
    adaln_weights(_params()), x, times, np.asarray(_hidden(), float)[:, :, None]
  )
  assert relative_error(found, expected) < 2e-6


def test_untrained_network_says_nothing():
  """Zero-initialised output: ε̂ = 0, v = 0, whatever goes in."""
  head = _head()
  out = _apply(head, *_inputs(), params=_initial_params(head))
  np.testing.assert_array_equal(out, 0)


def test_every_parameter_has_named_axes():
  network = logical_axes(_head(), *_inputs())["network"]
  spec = PartitionSpec("latent", "embed")
  assert network["latent_embed"]["kernel"] == spec
  spec = PartitionSpec("mlp", "embed")
  assert network["blocks_1"]["outer"]["kernel"] == spec
  axes = jax.tree.leaves(
    network, is_leaf=lambda x: isinstance(x, PartitionSpec)
  )
  assert all(isinstance(spec, PartitionSpec) and len(spec) for spec in axes)


@pytest.fixture(scope="module")
def loss_parts():
  """A loss, and the same built from the draws it must have made."""
  head = _head()
  mean = jax.random.normal(jax.random.key(1), (2, 3, _Z))
  log_std = -1.0 + 0.1 * mean
  found = _apply(head, _hidden(), mean, log_std, _keys(), method="loss")
  return head, mean, log_std, found


def test_loss_is_the_sum_of_its_terms_and_finite(loss_parts):
  *_, found = loss_parts
  assert found.loss.shape == (2, 3)
  np.testing.assert_allclose(
    found.loss,
    found.metrics["diffusion_mse"] + found.metrics["diffusion_vb"],
    rtol=1e-6,
  )
  assert np.isfinite(found.loss).all()


def test_untrained_loss_has_its_closed_form():
  """ε̂ = 0 makes the first term the mean of ε²: 1 over many draws."""
  config = DiffusionHeadConfig(num_mlp_layers=1, num_samples=500)
  head = DiffusionHead(config, _D, _Z)
  mean = jnp.zeros((2, 3, _Z))
  args = (_hidden(), mean, mean, _keys())
  found = _apply(head, *args, params=_initial_params(head), method="loss")
  # 2·3·500·5 squares of normals, each of variance 2: 4 standard errors.
  tolerance = 4 * (2 / (2 * 3 * 500 * _Z)) ** 0.5
  assert abs(found.metrics["diffusion_mse"].mean() - 1) < tolerance


def test_loss_depends_on_its_own_position_alone(loss_parts):
  head, mean, log_std, found = loss_parts
  again = _apply(
    head,
    _hidden()[1:, 2:],
    mean[1:, 2:],
    log_std[1:, 2:],
    _keys()[1:, 2:],
    method="loss",
  )
  np.testing.assert_allclose(again.loss, found.loss[1:, 2:], rtol=1e-5)
  other = _apply(
    head,
    _hidden(),
    mean,
    log_std,
    _keys(step=1),
    method="loss",
  )
  assert (np.abs(other.loss - found.loss) > 1e-3).all()


def test_loss_reaches_every_parameter(loss_parts):
  head, mean, log_std, _ = loss_parts

  def loss(params):
    return _apply(
      head, _hidden(), mean, log_std, _keys(), params=params, method="loss"
    ).loss.mean()

  gradients = jax.jit(jax.grad(loss))(_params())
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all(), path
    assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_sampler_follows_the_reverse_steps(num_steps):
  """A float64 loop over the same noises, step by step."""
  head = _head(num_sampling_steps=num_steps)
  ids = jnp.array([4, 9], jnp.uint32)
  keys = _keys((1, 1))
  found = _apply(head, _hidden((1, 1)), keys, ids, method="sample")[0, 0]

  def noise(step):
    return np.array(
      [
        jax.random.normal(
          jax.random.fold_in(jax.random.fold_in(keys[0, 0], i), step), (_Z,)
        )
        for i in ids
      ],
      float,
    )

  weights = adaln_weights(_params())
  hidden = np.asarray(_hidden((1, 1)), float)[0]
  schedule = denoising.noise_schedule(num_steps)
  x = noise(num_steps)
  for i in reversed(range(num_steps)):
    times = np.full(2, schedule.timesteps[i])
    out = numpy_model.adaln(weights, x, times, hidden)
    if num_steps == 1:
      a = schedule.sqrt_signal[0].astype(float) ** 2
      x = (x - np.sqrt(1 - a) * out[:, :_Z]) / np.sqrt(a)
      continue
    beta = numpy_model.betas(schedule.timesteps)
    x, log_variance = numpy_model.reverse_step(beta, out, x, i)
    if i > 0:
      x = x + np.exp(0.5 * log_variance) * noise(i)
  assert relative_error(found, x) < 1e-5


def test_blocks_of_samples_give_what_one_call_gives():
  head = _head(num_sampling_steps=3)
  draw = jax.jit(
    lambda ids: _apply(head, _hidden(), _keys(), ids, method="sample")
  )
  whole = draw(jnp.arange(4, dtype=jnp.uint32))
  assert whole.shape == (2, 3, 4, _Z)
  for start in (0, 2):
    part = draw(jnp.arange(start, start + 2, dtype=jnp.uint32))
    np.testing.assert_allclose(
      part, whole[..., start : start + 2, :], rtol=1e-5, atol=1e-5
    )
  spread = np.std(whole, axis=2)
  assert (spread > 0.05).all()


def test_no_noise_means_no_spread():
  head = _head(num_sampling_steps=3)
  ids = jnp.arange(4, dtype=jnp.uint32)
  found = _apply(head, _hidden(), _keys(), ids, 0.0, method="sample")
  np.testing.assert_allclose(np.std(found, axis=2), 0, atol=1e-6)


def test_bfloat16_follows_float32():
  config = DiffusionHeadConfig(num_mlp_layers=2)
  x = jax.random.normal(jax.random.key(3), (2, 3, 4, _Z))
  times = jnp.full((2, 3, 4), 123)
  whole, half = (
    _apply(DiffusionHead(config, _D, _Z, dtype), _hidden(), x, times)
    for dtype in ("float32", "bfloat16")
  )
  assert half.dtype == jnp.float32
  assert 1e-5 < relative_error(half, whole) < 3e-2
