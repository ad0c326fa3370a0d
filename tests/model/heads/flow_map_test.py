"""The flow-map head: closed forms of its loss, network and sampler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from calm_jax.config.heads import FlowMapHeadConfig
from calm_jax.layers.parameters import init_params, logical_axes
from calm_jax.model.heads import flow_map
from calm_jax.model.heads.flow import interpolate, matching_loss
from calm_jax.model.heads.flow_map import FlowMapHead
from calm_jax.randomness import position_keys, stream_key
from tests.cached import cached
from tests.interop import numpy_model
from tests.model.heads.adaln_weights import adaln_weights
from tests.perturbation import perturb, relative_error

_D, _Z = 12, 5
_MEAN, _STD = np.array([0.7, -1.2, 3.0]), np.array([0.3, 1.5, 0.05])


def _head(dtype="float32", **kwargs):
  config = {"num_mlp_layers": 1, "num_samples": 5, "num_jumps": 2} | kwargs
  return FlowMapHead(FlowMapHeadConfig(**config), _D, _Z, dtype)


def _hidden(shape=(2, 3)):
  return jax.random.normal(jax.random.key(0), (*shape, _D))


def _inputs():
  time = jnp.zeros((2, 3, 1))
  return _hidden(), jnp.zeros((2, 3, 1, _Z)), time, time


@cached
def _initial_params():
  return init_params(_head(), jax.random.key(0), *_inputs())


@cached
def _params():
  return perturb(_initial_params())


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


def _exact(x, start, end, mean=_MEAN, std=_STD):
  """u_{s,t}(x) for latents from N(mean, std²).

  With σ_t² = (1 − t)² + t²·std², a path keeps its (x_t − t·mean)/σ_t; what is
  divided by t − s has been divided out.
  """
  start, end = start[..., None], end[..., None]
  mean, std = (jnp.broadcast_to(part, x.shape) for part in (mean, std))
  spread = lambda t: jnp.sqrt((1 - t) ** 2 + t**2 * std**2)
  slope = (start + end) * (1 + std**2) - 2
  slope /= spread(start) * (spread(start) + spread(end))
  return mean + slope * (x - start * mean)


def _points(num=200):
  rng = np.random.default_rng(0)
  times = np.sort(rng.random((num, 2)), axis=-1)
  times[:3] = [[0, 1], [0, 0], [1, 1]]
  return 3 * rng.normal(size=(num, 3)), times[:, 0], times[:, 1]


def test_the_exact_average_velocity_is_that_of_its_paths():
  """What the closed forms below rest on: u + (s − t)·du/ds = v (MeanFlow)."""
  with jax.enable_x64(True):
    x, start, end = map(jnp.asarray, _points())
    velocity = _exact(x, start, start)
    u, slope = jax.jvp(
      lambda x, start: _exact(x, start, end),
      (x, start),
      (velocity, jnp.ones_like(start)),
    )
    found = u + (start - end)[:, None] * slope
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, velocity, rtol=1e-12, atol=1e-12)


def test_the_exact_flow_map_has_no_jump_loss_and_no_gradient():
  with jax.enable_x64(True):
    x, start, end = map(jnp.asarray, _points())

    def loss(mean, std):
      fn = functools.partial(_exact, mean=mean, std=std)
      return flow_map.jump_loss(fn, x, start, end)

    args = jnp.asarray(_MEAN), jnp.asarray(_STD)
    assert loss(*args).shape == start.shape
    np.testing.assert_allclose(loss(*args), 0, atol=1e-24)
    gradient = jax.grad(lambda *x: loss(*x).sum(), (0, 1))(*args)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)


def test_a_velocity_that_never_turns_is_no_flow_map():
  """Straight on from s, as one Euler step of the flow head goes."""
  x, start, end = map(jnp.float32, _points())
  straight = lambda x, start, end: _exact(x, start, start)
  found = flow_map.jump_loss(straight, x, start, end)
  assert np.median(found) > 0.01
  np.testing.assert_allclose(found[1:3], 0, atol=1e-8)  # t = s


def test_jump_loss_teaches_the_jump_and_not_the_teacher():
  """u = a·x: the loss is (a²·(t − s)·x)², with −2a²·(t − s)·x² for a slope."""
  x, start, end = map(jnp.float32, _points())
  loss = lambda a: flow_map.jump_loss(lambda x, s, t: a * x, x, start, end)
  found, slope = loss(1.5), jax.jacrev(loss)(1.5)
  duration, square = end - start, np.square(x).mean(-1)
  np.testing.assert_allclose(found, 1.5**4 * duration**2 * square, rtol=1e-5)
  np.testing.assert_allclose(slope, -2 * 1.5**2 * duration * square, rtol=1e-5)


def test_data_pull_on_the_exact_velocity_in_no_direction():
  """The mean gradient of the rest of the loss is 0, to 4 standard errors."""
  num, rng = 100_000, np.random.default_rng(0)
  noise, target = np.float32(rng.normal(size=(2, num, 3)))
  latents, time = _MEAN[None] + _STD[None] * target, np.float32(rng.random(num))
  x = interpolate(noise, jnp.float32(latents), jnp.asarray(time))

  def loss(shift, scale, tilt):
    velocity = _exact(x, time, time) + shift + scale * x + tilt * time[:, None]
    return matching_loss(velocity, noise, latents)

  slopes = jax.jit(jax.jacfwd(loss, (0, 1, 2)))(0.0, 0.0, 0.0)
  for slope in slopes:
    assert abs(slope.mean()) < 4 * slope.std() / num**0.5
    assert slope.std() > 0.1


@pytest.mark.parametrize("num_steps", [1, 3])
def test_exact_jumps_turn_noise_into_the_target(num_steps):
  """x₁ = mean + std·x₀ to rounding: moments need no sampling error."""
  with jax.enable_x64(True):
    noise, *_ = _points()
    found = flow_map.jump(_exact, jnp.asarray(noise[:, None]), num_steps)[:, 0]
    np.testing.assert_allclose(found, _MEAN + _STD * noise, rtol=1e-12)


def test_network_matches_float64():
  """That of the flow head, the embedding of t − s added to the condition."""
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(size=(2, 3, 4, _Z)))
  start, end = np.sort(np.float32(rng.random((2, 2, 3, 4))), axis=0)
  found = _apply(_head(), _hidden(), x, start, end)
  params = jax.tree.map(lambda leaf: np.asarray(leaf, float), _params())
  weights = adaln_weights(params)
  name = "generative_head.net.cond_embed"
  angles = (end - start)[..., None] * 1e4 ** (-np.arange(128) / 128)
  y = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
  for part, activation in (("inner", numpy_model.silu), ("outer", np.asarray)):
    part = params[f"duration_{part}"]
    y = activation(y @ part["kernel"] + part["bias"])
  weights[f"{name}.bias"] = weights[f"{name}.bias"] + y
  hidden = np.asarray(_hidden(), float)[:, :, None]
  expected = numpy_model.adaln(weights, x, start, hidden)
  assert relative_error(found, expected) < 2e-6
  # Both times matter, each in its own way.
  swapped = _apply(_head(), _hidden(), x, end - start, end)
  assert relative_error(found, swapped) > 1e-3


def test_untrained_loss_has_its_closed_form():
  """u = 0 and z ~ N(μ, σ²): 0 for the jumps, μ² + σ² + 1 for the rest."""
  head = _head(num_samples=2000, num_jumps=500)
  mean = jnp.full((2, 3, _Z), 0.5)
  args = (_hidden(), mean, jnp.full((2, 3, _Z), np.log(0.3)), _keys())
  found = _apply(head, *args, params=_initial_params(), method="loss")
  assert found.loss.shape == (2, 3)
  np.testing.assert_array_equal(found.metrics["flow_map_jump"], 0)
  variance = 1 + 0.3**2
  # Var[(μ + s·ε)²] = 2s⁴ + 4μ²s²; 4 standard errors.
  squares = 2 * variance**2 + 4 * 0.25 * variance
  tolerance = 4 * (squares / (2 * 3 * 1500 * _Z)) ** 0.5
  matching = found.metrics["flow_map_matching"]
  assert abs(matching.mean() - (0.5**2 + variance)) < tolerance
  np.testing.assert_array_equal(found.loss, matching)


def test_loss_is_built_from_its_own_draws():
  """Draw by draw from the folded keys; J jumps first, then the velocity."""
  head = _head()
  mean = jax.random.normal(jax.random.key(1), (2, 3, _Z))
  found = _apply(head, _hidden(), mean, mean - 1, _keys(), method="loss")
  at = (1, 2)
  hidden = _hidden()[at]
  velocity = lambda x, s, t: _apply(
    head, hidden, x[None], jnp.reshape(s, 1), jnp.reshape(t, 1)
  )[0]
  losses = []
  for i in range(5):
    key = jax.random.fold_in(_keys()[at], i)
    target, noise, time = jax.random.split(key, 3)
    latent = mean[at] + jnp.exp(mean[at] - 1) * jax.random.normal(target, (_Z,))
    noise, time = (
      jax.random.normal(noise, (_Z,)),
      jax.random.uniform(time, (2,)),
    )
    if i < 2:
      start, end = jnp.sort(time)
      x = (1 - start) * noise + start * latent
      losses.append(flow_map.jump_loss(velocity, x, start, end))
    else:
      x = (1 - time[0]) * noise + time[0] * latent
      error = velocity(x, time[0], time[0]) - (latent - noise)
      losses.append(jnp.square(error).mean())
  expected = np.mean(losses[:2]) + np.mean(losses[2:])
  np.testing.assert_allclose(found.loss[at], expected, rtol=1e-5)
  for name, part in (("jump", losses[:2]), ("matching", losses[2:])):
    metric = found.metrics[f"flow_map_{name}"][at]
    np.testing.assert_allclose(metric, np.mean(part), rtol=1e-5)


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


@pytest.mark.parametrize("num_steps", [1, 2])
def test_samples_depend_on_key_and_id_alone(num_steps):
  head = _head(num_sampling_steps=num_steps)
  draw = functools.partial(_apply, head, method="sample")
  whole = draw(_hidden(), _keys(), _ids(0, 1, 2, 3))
  assert whole.shape == (2, 3, 4, _Z) and whole.dtype == jnp.float32
  part = draw(_hidden()[1, 2], _keys()[1, 2], _ids(3, 1))
  expected = whole[1, 2][np.array([3, 1])]
  np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-5)
  assert (np.std(whole, axis=2) > 0.05).all()
  still = draw(_hidden(), _keys(), _ids(0, 1, 2, 3), 0.0)
  np.testing.assert_allclose(np.std(still, axis=2), 0, atol=1e-6)


def test_a_sample_is_one_jump_from_its_scaled_noise():
  keys, ids = _keys(), _ids(7)
  found = _apply(_head(), _hidden(), keys, ids, 0.5, method="sample")
  noise = jnp.stack(
    [
      jax.random.normal(jax.random.fold_in(keys[at], 7), (_Z,))
      for at in np.ndindex(2, 3)
    ]
  ).reshape(2, 3, 1, _Z)
  start = jnp.zeros((2, 3, 1))
  jump = _apply(_head(), _hidden(), noise / 2, start, start + 1)
  np.testing.assert_allclose(found, noise / 2 + jump, rtol=1e-5, atol=1e-6)


def test_training_finds_two_modes_in_one_step():
  """A quarter at −1 and the rest at 1, std 0.2: mean 0.5, variance 0.79.

  One Gaussian of these moments would have 30 % of its samples in the middle.
  Seeds differ by 0.1 in the mean and 0.2 in the variance after so few steps.
  """
  config = FlowMapHeadConfig(num_mlp_layers=1, num_samples=4, num_jumps=2)
  head = FlowMapHead(config, 32, 1, init_std=0.2)
  hidden, time = jnp.ones((1, 32, 32)), jnp.zeros((1, 32, 1))
  mean = jnp.where(jnp.arange(32) % 4 == 0, -1.0, 1.0)[None, :, None]
  args = hidden, mean, jnp.full(mean.shape, np.log(0.2))
  optimizer = optax.adam(optax.cosine_decay_schedule(0.01, 400))

  def step(carry, key):
    params, state = carry
    keys = jax.random.split(key, (1, 32))

    def loss(params):
      found = head.apply({"params": params}, *args, keys, method="loss")
      return found.loss.mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  def train(params):
    keys = jax.random.split(jax.random.key(1), 400)
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    ids = jnp.arange(10_000, dtype=jnp.uint32)
    args = hidden[0, 0], jax.random.key(2), ids
    return head.apply({"params": params}, *args, method="sample")

  inputs = hidden, time[..., None], time, time
  samples = train(init_params(head, jax.random.key(0), *inputs))
  assert abs(samples.mean() - 0.5) < 0.2
  assert abs(samples.var() - 0.79) < 0.4
  assert abs((samples < 0).mean() - 0.25) < 0.1
  assert (np.abs(samples) < 0.4).mean() < 0.15


def test_bfloat16_follows_float32():
  x = jax.random.normal(jax.random.key(3), (2, 3, 4, _Z))
  time = jnp.linspace(0, 1, 24).reshape(2, 3, 4)
  whole, half = (
    _apply(_head(dtype), _hidden(), x, time / 2, time)
    for dtype in ("float32", "bfloat16")
  )
  assert half.dtype == jnp.float32
  assert 1e-5 < relative_error(half, whole) < 5e-2
  whole, half = (
    _apply(
      _head(dtype),
      _hidden().astype(dtype),
      x[:, :, 0],
      x[:, :, 1],
      _keys(),
      method="loss",
    ).loss
    for dtype in ("float32", "bfloat16")
  )
  assert half.dtype == jnp.float32
  assert 1e-6 < relative_error(half, whole) < 5e-2


def test_every_parameter_has_named_axes():
  axes = logical_axes(_head(), *_inputs())
  assert axes["duration_inner"]["kernel"] == PartitionSpec(None, "mlp")
  assert axes["duration_outer"]["kernel"] == PartitionSpec("mlp", "embed")
  leaves = jax.tree.leaves(axes, is_leaf=lambda x: isinstance(x, PartitionSpec))
  assert all(isinstance(leaf, PartitionSpec) and len(leaf) for leaf in leaves)
