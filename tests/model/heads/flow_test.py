"""The flow head: network, loss and sampler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.config import FlowHeadConfig
from calm_jax.layers.parameters import init_params
from calm_jax.model.heads import flow
from calm_jax.model.heads.flow import FlowHead
from calm_jax.randomness import position_keys, stream_key
from tests.cached import cached
from tests.interop import numpy_model
from tests.model.heads.adaln_weights import adaln_weights
from tests.perturbation import perturb, relative_error

_D, _Z = 12, 5


def _head(**kwargs):
  return FlowHead(FlowHeadConfig(num_mlp_layers=2, **kwargs), _D, _Z)


def _hidden(shape=(2, 3)):
  return jax.random.normal(jax.random.key(0), (*shape, _D))


def _initial_params(head):
  inputs = (_hidden(), jnp.zeros((2, 3, 1, _Z)), jnp.zeros((2, 3, 1)))
  init = jax.jit(lambda key: init_params(head, key, *inputs))
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


def _noise():
  return np.asarray(jax.random.normal(jax.random.key(5), (6, _Z)))


def test_network_sees_the_floor_of_a_thousand_times_t():
  head = _head()
  times = np.array([0.0, 0.0009, 0.5, 0.7305, 0.9, 0.99999994], np.float32)
  found = _apply(head, _hidden((6,)), _noise()[:, None], times[:, None])[:, 0]
  expected = numpy_model.adaln(
    adaln_weights(_params()),
    _noise().astype(float),
    np.array([0, 0, 500, 730, 900, 999]),
    np.asarray(_hidden((6,)), float),
  )
  assert relative_error(found, expected) < 2e-6


@pytest.mark.parametrize("solver", ["midpoint", "euler"])
@pytest.mark.parametrize("num_steps", [1, 3, 10])
def test_integration_matches_float64(solver, num_steps):
  head = _head(solver=solver, num_sampling_steps=num_steps)
  found = _apply(head, _hidden((6,)), _noise()[:, None], method="integrate")[
    :, 0
  ]
  expected = numpy_model.flow_sample(
    adaln_weights(_params()),
    np.asarray(_hidden((6,)), float),
    _noise().astype(float),
    num_steps,
    solver,
  )
  assert relative_error(found, expected) < 5e-6


def test_a_constant_velocity_moves_by_itself():
  """With zero weights and output bias b, x₁ = x₀ + b for every solver."""
  for solver in ("midpoint", "euler"):
    head = _head(solver=solver, num_sampling_steps=4)
    params = jax.tree.map(jnp.zeros_like, _params())
    bias = jnp.arange(_Z, dtype=jnp.float32)
    params["network"]["outer"]["bias"] = bias
    found = _apply(
      head,
      _hidden((6,)),
      _noise()[:, None],
      params=params,
      method="integrate",
    )[:, 0]
    np.testing.assert_allclose(found, _noise() + bias[None], rtol=1e-5)


def test_a_perfect_velocity_has_no_loss():
  noise, latents = _noise(), _noise()[::-1]
  np.testing.assert_array_equal(
    flow.matching_loss(latents - noise, noise, latents), 0
  )
  times = jnp.linspace(0, 1, 6)
  path = flow.interpolate(noise, latents, times)
  np.testing.assert_array_equal(path[0], noise[0])
  np.testing.assert_array_equal(path[-1], latents[-1])


def test_untrained_loss_has_its_closed_form():
  """v̂ = 0 and z ~ N(μ, σ²) give μ² + σ² + 1."""
  head = FlowHead(FlowHeadConfig(num_mlp_layers=1, num_samples=2000), _D, _Z)
  mean = jnp.full((2, 3, _Z), 0.5)
  log_std = jnp.full((2, 3, _Z), np.log(0.3))
  params = _initial_params(head)
  found = _apply(
    head, _hidden(), mean, log_std, _keys(), params=params, method="loss"
  )
  variance = 1 + 0.3**2
  expected = 0.5**2 + variance
  # Var[(μ + s·ε)²] = 2s⁴ + 4μ²s²; 4 standard errors.
  squares = 2 * variance**2 + 4 * 0.25 * variance
  tolerance = 4 * (squares / (2 * 3 * 2000 * _Z)) ** 0.5
  assert abs(found.loss.mean() - expected) < tolerance
  assert found.loss.shape == (2, 3) and found.metrics == {}


def test_loss_reaches_every_parameter_and_its_own_position_alone():
  head = _head()
  mean = jax.random.normal(jax.random.key(1), (2, 3, _Z))

  def loss(params, part=slice(None), step=0):
    return _apply(
      head,
      _hidden()[:, part],
      mean[:, part],
      mean[:, part] - 1,
      _keys(step=step)[:, part],
      params=params,
      method="loss",
    ).loss

  params = _params()
  whole = loss(params)
  np.testing.assert_allclose(loss(params, slice(2, 3)), whole[:, 2:], rtol=1e-5)
  assert (np.abs(loss(params, step=1) - whole) > 1e-3).all()
  gradients = jax.jit(jax.grad(lambda params: loss(params).mean()))(params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_samples_depend_on_key_and_id_alone():
  head = _head(num_sampling_steps=2)
  draw = jax.jit(
    lambda ids, scale: _apply(
      head, _hidden(), _keys(), ids, scale, method="sample"
    )
  )
  whole = draw(jnp.arange(4, dtype=jnp.uint32), 1.0)
  part = draw(jnp.arange(2, 4, dtype=jnp.uint32), 1.0)
  np.testing.assert_allclose(part, whole[:, :, 2:], rtol=1e-5, atol=1e-5)
  assert (np.std(whole, axis=2) > 0.05).all()
  still = draw(jnp.arange(4, dtype=jnp.uint32), 0.0)
  np.testing.assert_allclose(np.std(still, axis=2), 0, atol=1e-6)
