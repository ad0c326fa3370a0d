"""The mixture head: density against float64 NumPy, samples against moments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from calm_jax.config.heads import MixtureHeadConfig
from calm_jax.layers.parameters import init_params, logical_axes
from calm_jax.model.heads.mixture import Mixture, MixtureHead, log_density
from calm_jax.randomness import position_keys, sample_keys, stream_key
from tests.cached import cached
from tests.perturbation import random_params, relative_error

_D, _Z, _C, _M = 12, 5, 3, 4


def _head(dtype="float32", **kwargs):
  config = {"num_components": _C, "num_targets": _M} | kwargs
  return MixtureHead(MixtureHeadConfig(**config), _D, _Z, dtype)


def _hidden(shape=(2, 3)):
  return jax.random.normal(jax.random.key(0), (*shape, _D))


def _posterior():
  mean = jax.random.normal(jax.random.key(1), (2, 3, _Z))
  return mean, 0.2 * mean - 1


@cached
def _params():
  return random_params(_head(), _hidden(), scale=0.3)


@cached
def _compiled(head, method):
  return jax.jit(functools.partial(head.apply, method=method))


def _apply(head, *args, params=None, method="__call__"):
  params = _params() if params is None else params
  return _compiled(head, method)({"params": params}, *args)


def _keys(shape=(2, 3), step=0):
  rows, chunks = (jnp.arange(n, dtype=jnp.uint32) for n in shape)
  return position_keys(stream_key(0, "test", step), rows, chunks)


def _ids(*numbers):
  return jnp.array(numbers, jnp.uint32)


def _numpy_mixture(params, hidden):
  """The network in float64: logits, means and log-stds."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

  def norm(x, part):
    scale = part["norm"]["scale"]
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * scale

  x = np.asarray(hidden, np.float64)
  for i in range(2):
    mlp = {k: v["kernel"] for k, v in params[f"mlps_{i}"].items()}
    y = norm(x, params[f"norms_{i}"])
    gate = y @ mlp["gate"]
    x = x + (gate / (1 + np.exp(-gate)) * (y @ mlp["up"])) @ mlp["down"]
  x = norm(x, params["norm"])
  logits, mean, raw = (
    np.tensordot(x, part["kernel"], 1) + part["bias"]
    for part in (params[name] for name in ("logits", "mean", "log_std"))
  )
  return logits, mean, 7 * np.tanh(raw / 7)


def _numpy_log_density(logits, mean, log_std, latents):
  """As it is defined, [..., M, C, Z] and all."""
  scaled = latents[..., :, None, :] - mean[..., None, :, :]
  scaled = scaled / np.exp(log_std)[..., None, :, :]
  log_normal = -0.5 * scaled**2 - log_std[..., None, :, :]
  log_normal = (log_normal - 0.5 * np.log(2 * np.pi)).sum(-1)
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  exponents = np.log(weights)[..., None, :] + log_normal
  largest = exponents.max(-1, keepdims=True)
  return np.log(np.exp(exponents - largest).sum(-1)) + largest[..., 0]


def _numpy_loss(params, hidden, mean, log_std, keys):
  noise = np.zeros((2, 3, _M, _Z))
  for at in np.ndindex(2, 3, _M):
    noise[at] = jax.random.normal(jax.random.fold_in(keys[at[:2]], at[2]), _Z)
  mean, log_std = np.asarray(mean, float), np.asarray(log_std, float)
  latents = mean[:, :, None] + np.exp(log_std)[:, :, None] * noise
  mixture = _numpy_mixture(params, hidden)
  return -_numpy_log_density(*mixture, latents).mean(-1) / _Z


def test_network_matches_float64():
  found = _apply(_head(), _hidden())
  expected = _numpy_mixture(_params(), _hidden())
  for a, b, shape in zip(found, expected, ((), (_Z,), (_Z,)), strict=True):
    assert a.shape == (2, 3, _C, *shape)
    assert relative_error(a, b) < 2e-6


def test_loss_matches_float64():
  args = (_hidden(), *_posterior(), _keys())
  found = _apply(_head(), *args, method="loss")
  expected = _numpy_loss(_params(), *args)
  np.testing.assert_allclose(found.loss, expected, rtol=2e-6)
  np.testing.assert_allclose(
    found.metrics["mixture_nats"], _Z * expected, rtol=2e-6
  )
  logits, *_ = _numpy_mixture(_params(), _hidden())
  weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  perplexity = np.prod(weights**-weights, axis=-1)
  np.testing.assert_allclose(
    found.metrics["mixture_components"], perplexity, rtol=2e-6
  )


def test_gradient_is_the_slope_of_the_float64_loss():
  """Along random directions, and none of it is zero or infinite."""
  args = (_hidden(), *_posterior(), _keys())

  def loss(params):
    found = _apply(_head(), *args, params=params, method="loss")
    return found.loss.mean()

  gradients = jax.tree.leaves(jax.jit(jax.grad(loss))(_params()))
  leaves, tree = jax.tree.flatten(_params())
  rng = np.random.default_rng(0)
  for i, gradient in enumerate(gradients):
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    direction = rng.normal(size=gradient.shape)
    low, high = (
      _numpy_loss(
        tree.unflatten(
          [*leaves[:i], np.float64(leaves[i]) + step, *leaves[i + 1 :]]
        ),
        *args,
      ).mean()
      for step in (-1e-5 * direction, 1e-5 * direction)
    )
    found = np.sum(np.float64(gradient) * direction)
    size = np.linalg.norm(gradient) * np.linalg.norm(direction)
    assert abs(found - (high - low) / 2e-5) < 1e-5 * size


@pytest.mark.parametrize("std", [1e-2, 1.0, 30.0])
def test_density_matches_float64_near_a_component_and_far_from_it(std):
  """What is expanded must not cancel, neither at a mean nor at 300 stds."""
  rng = np.random.default_rng(0)
  size, num = 128, 6
  mixture = Mixture(
    rng.normal(size=(_C,)),
    rng.normal(size=(_C, size)),
    np.log(std) + 0.3 * rng.normal(size=(_C, size)),
  )
  mean, log_std = mixture.mean[0] + 0.1 * std, mixture.log_std[0] - 0.5
  noise = rng.normal(size=(num, size))
  args = jax.tree.map(jnp.float32, (mixture, mean, log_std, noise))
  found = jax.jit(log_density)(*args)
  expected = _numpy_log_density(*mixture, mean + np.exp(log_std) * noise)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


def test_one_component_has_its_closed_form():
  """E[−log N(z; 0, 1)] = ½(log 2π + mean² + std²): an untrained head's loss."""
  head = _head(num_components=1, num_targets=2000)
  params = init_params(head, jax.random.key(0), _hidden())
  params["mean"] = jax.tree.map(jnp.zeros_like, params["mean"])
  mean, log_std = jnp.full((2, 3, _Z), 0.5), jnp.full((2, 3, _Z), np.log(0.3))
  args = (_hidden(), mean, log_std, _keys())
  found = _apply(head, *args, params=params, method="loss")
  expected = 0.5 * (np.log(2 * np.pi) + 0.5**2 + 0.3**2)
  # Var[(μ + σ·ε)²/2] = σ⁴/2 + μ²σ²; 4 standard errors.
  tolerance = 4 * ((0.3**4 / 2 + 0.15**2) / (2 * 3 * 2000 * _Z)) ** 0.5
  assert abs(found.loss.mean() - expected) < tolerance
  np.testing.assert_allclose(found.metrics["mixture_components"], 1, rtol=1e-6)


def test_untrained_components_differ_in_their_means_alone():
  params = init_params(_head(), jax.random.key(0), _hidden())
  found = _apply(_head(), _hidden(), params=params)
  np.testing.assert_array_equal(found.logits, 0)
  np.testing.assert_array_equal(found.log_std, 0)
  assert (np.std(found.mean, axis=-2) > 0).all()


def test_loss_stays_finite_at_the_bounds():
  """Stds of e⁻⁷ and e⁷ and targets far away; all gradients are numbers."""
  mean, log_std = _posterior()

  @jax.jit
  def value_and_grad(params):
    def loss(params):
      args = (_hidden(), 1e3 + mean, log_std, _keys())
      return _head().apply({"params": params}, *args, method="loss").loss.mean()

    return jax.value_and_grad(loss)(params)

  for shift in (-100.0, 100.0):
    bias = _params()["log_std"]["bias"] + shift
    params = {**_params(), "log_std": {**_params()["log_std"], "bias": bias}}
    stds = jnp.exp(_apply(_head(), _hidden(), params=params).log_std)
    np.testing.assert_allclose(stds, np.exp(7 * np.sign(shift)), rtol=1e-4)
    found = value_and_grad(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_loss_depends_on_its_own_position_alone():
  args = (_hidden(), *_posterior(), _keys())
  whole = _apply(_head(), *args, method="loss").loss
  part = _apply(_head(), *(x[1:, 2:] for x in args), method="loss").loss
  np.testing.assert_allclose(part, whole[1:, 2:], rtol=1e-5)
  other = _apply(_head(), *args[:3], _keys(step=1), method="loss").loss
  assert (np.abs(other - whole) > 1e-3).all()


def test_samples_depend_on_key_and_id_alone():
  draw = functools.partial(_apply, _head(), method="sample")
  whole = draw(_hidden(), _keys(), _ids(0, 1, 2, 3))
  assert whole.shape == (2, 3, 4, _Z) and whole.dtype == jnp.float32
  part = draw(_hidden()[1, 2], _keys()[1, 2], _ids(3, 1))
  np.testing.assert_allclose(part, whole[1, 2][np.array([3, 1])], rtol=1e-5)


def test_samples_have_the_moments_of_the_mixture():
  """Weights, mean and variance of 20 000 draws, to 4 standard errors."""
  num, head = 20_000, _head()
  hidden, key = _hidden((1,))[0], _keys((1, 1))[0, 0]
  ids = jnp.arange(num, dtype=jnp.uint32)
  found = np.asarray(_apply(head, hidden, key, ids, method="sample"), float)
  logits, mean, log_std = _numpy_mixture(_params(), hidden)
  weights = (np.exp(logits) / np.exp(logits).sum())[:, None]
  expected = (weights * mean).sum(0)
  offset, variance = mean - expected, np.exp(2 * log_std)
  second = (weights * (variance + offset**2)).sum(0)
  fourth = (
    weights * (3 * variance**2 + 6 * variance * offset**2 + offset**4)
  ).sum(0)
  error = np.abs(found.mean(0) - expected)
  assert (error < 4 * np.sqrt(second / num)).all()
  error = np.abs(((found - expected) ** 2).mean(0) - second)
  assert (error < 4 * np.sqrt((fourth - second**2) / num)).all()


def test_components_are_chosen_with_their_weights():
  num = 4000
  hidden, key = _hidden((1,))[0], _keys((1, 1))[0, 0]
  mixture = _apply(_head(), hidden)
  # Components so narrow that a draw tells where it came from.
  params = jax.tree.map(lambda x: x, _params())
  params["log_std"]["bias"] = jnp.full((_C, _Z), -100.0)
  found = _apply(
    _head(),
    hidden,
    key,
    jnp.arange(num, dtype=jnp.uint32),
    params=params,
    method="sample",
  )
  distance = np.abs(found[:, None] - mixture.mean[None]).max(-1)  # [n, C]
  share = np.bincount(distance.argmin(-1), minlength=_C) / num
  weights = jax.nn.softmax(mixture.logits)
  tolerance = 4 * np.sqrt(weights * (1 - weights) / num)
  assert (np.abs(share - weights) < tolerance).all()
  assert (weights > 0.05).all()


def test_without_noise_every_draw_is_the_likeliest_mean():
  hidden, ids = _hidden(), _ids(*range(6))
  found = _apply(_head(), hidden, _keys(), ids, 0.0, method="sample")
  mixture = _apply(_head(), hidden)
  best = jnp.argmax(mixture.logits, axis=-1)[..., None, None]
  expected = jnp.take_along_axis(mixture.mean, best, axis=-2)
  np.testing.assert_allclose(
    found, jnp.broadcast_to(expected, found.shape), atol=1e-6
  )


def test_draws_are_those_of_the_folded_keys():
  hidden, keys = _hidden(), _keys()
  found = _apply(_head(), hidden, keys, _ids(5), method="sample")[:, :, 0]
  logits, mean, log_std = _apply(_head(), hidden)
  for at in np.ndindex(2, 3):
    key = sample_keys(keys[at], _ids(5))[0]
    component_key, noise_key = jax.random.split(key)
    c = jax.random.categorical(component_key, logits[at])
    noise = jax.random.normal(noise_key, (_Z,))
    expected = mean[at][c] + jnp.exp(log_std[at][c]) * noise
    np.testing.assert_allclose(found[at], expected, rtol=1e-5)


def test_training_finds_two_modes_and_their_weights():
  """A quarter at −1 and the rest at 1, std 0.2: mean 0.5, variance 0.79."""
  config = MixtureHeadConfig(num_mlp_layers=1, num_components=4, num_targets=4)
  head = MixtureHead(config, 8, 1)
  hidden = jnp.ones((1, 64, 8))
  params = init_params(head, jax.random.key(0), hidden)
  optimizer = optax.adam(0.02)

  def step(carry, key):
    params, state = carry
    sign = jnp.where(jax.random.uniform(key, (1, 64, 1)) < 0.25, -1.0, 1.0)
    log_std = jnp.full(sign.shape, np.log(0.2))
    keys = jax.random.split(key, (1, 64))

    def loss(params):
      args = (hidden, sign, log_std, keys)
      return head.apply({"params": params}, *args, method="loss").loss.mean()

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state)
    return (optax.apply_updates(params, updates), state), value

  @jax.jit
  def train(params):
    keys = jax.random.split(jax.random.key(1), 400)
    (params, _), losses = jax.lax.scan(
      step, (params, optimizer.init(params)), keys
    )
    ids = jnp.arange(10_000, dtype=jnp.uint32)
    args = (hidden[0, 0], jax.random.key(2), ids)
    return head.apply({"params": params}, *args, method="sample"), losses

  samples, losses = train(params)
  # The entropy of the target: that of the sign and that of the noise.
  entropy = 0.5623 + 0.5 * np.log(2 * np.pi * np.e) + np.log(0.2)
  assert abs(losses[-100:].mean() - entropy) < 0.05
  assert abs(samples.mean() - 0.5) < 0.05
  assert abs(samples.var() - 0.79) < 0.05
  assert abs((samples < 0).mean() - 0.25) < 0.03
  assert (np.abs(samples) < 0.2).mean() < 0.01


def test_bfloat16_follows_float32():
  whole, half = (_apply(_head(d), _hidden()) for d in ("float32", "bfloat16"))
  for a, b in zip(whole, half, strict=True):
    assert b.dtype == jnp.float32
    assert 1e-5 < relative_error(b, a) < 5e-2
  args = (_hidden().astype(jnp.bfloat16), *_posterior(), _keys())
  found = _apply(_head("bfloat16"), *args, method="loss").loss
  assert found.dtype == jnp.float32 and np.isfinite(found).all()


def test_every_parameter_has_named_axes():
  axes = logical_axes(_head(), _hidden())
  spec = PartitionSpec("embed", None, "latent")
  assert axes["mean"]["kernel"] == axes["log_std"]["kernel"] == spec
  assert axes["mlps_1"]["up"]["kernel"] == PartitionSpec("embed", "mlp")
  leaves = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, PartitionSpec))
  assert all(isinstance(leaf, PartitionSpec) and len(leaf) for leaf in leaves)
