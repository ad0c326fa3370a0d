"""The energy head: network and loss against float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.config import EnergyHeadConfig
from calm_jax.kernels.distance import Distance
from calm_jax.losses.energy import energy_loss
from calm_jax.model.heads.energy import EnergyHead
from calm_jax.randomness import position_keys, stream_key
from tests.cached import cached
from tests.interop import numpy_model
from tests.perturbation import random_params, relative_error

_D, _Z, _U, _N = 12, 5, 7, 4


def _head(dtype="float32"):
  config = EnergyHeadConfig(
    num_mlp_layers=3, noise_size=_U, num_samples=_N, num_targets=6, alpha=1.3
  )
  return EnergyHead(config, _D, _Z, dtype)


def _inputs():
  rng = np.random.default_rng(0)
  hidden = rng.normal(size=(2, 3, _D)).astype(np.float32)
  noise = rng.uniform(-0.5, 0.5, (2, 3, _N, _U)).astype(np.float32)
  return jnp.asarray(hidden), jnp.asarray(noise)


@cached
def _params():
  return random_params(_head(), *_inputs(), scale=0.3)


def _apply(*args, dtype="float32", method="__call__", params=None):
  call = functools.partial(_head(dtype).apply, method=method)
  return jax.jit(call)({"params": params or _params()}, *args)


def _keys():
  rows, chunks = (jnp.arange(n, dtype=jnp.uint32) for n in (2, 3))
  return position_keys(stream_key(0, "test"), rows, chunks)


def _weights():
  """The parameters under the names of the NumPy model."""
  head = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _params())
  weights = {}

  def put(name, kernel, bias):
    weights[f"generative_head.{name}.weight"] = kernel.T
    weights[f"generative_head.{name}.bias"] = bias

  def put_all(module, names):
    for ours, name in names.items():
      part = module[ours]
      part = part.get("norm", part)
      put(name, part.get("kernel", part.get("scale")), part["bias"])

  put_all(
    head,
    {
      "noise_embed": "noise_embd",
      "noise_norm": "norm_noise",
      "condition_embed": "hidden_embd",
      "condition_norm": "norm_hidden",
      "norm": "final_layer.in_ln",
      "inner": "final_layer.linears.0",
      "outer": "final_layer.linears.2",
    },
  )
  for i in range(3):
    block, name = head[f"blocks_{i}"], f"mlp_blocks.{i}"
    put_all(
      block,
      {
        "norm": f"{name}.in_ln",
        "middle": f"{name}.linears.2",
        "gate_value": f"{name}.linears.4",
        "down": f"{name}.down_proj",
      },
    )
    condition = block["inner_condition"]
    kernels = [block["inner_x"]["kernel"], condition["kernel"]]
    put(f"{name}.linears.0", np.concatenate(kernels), condition["bias"])
  return weights


def test_network_matches_float64():
  hidden, noise = _inputs()
  expected = numpy_model.energy_samples(
    _weights(),
    np.asarray(hidden, np.float64),
    np.moveaxis(np.asarray(noise, np.float64), -2, 0),
  )
  found = _apply(hidden, noise)
  assert found.shape == (2, 3, _N, _Z)
  assert relative_error(found, np.moveaxis(expected, 0, -2)) < 2e-6


def test_noise_is_uniform_around_zero():
  """A sample is the network's value at its own draw of [−½, ½]^U."""
  hidden, _ = _inputs()
  ids = jnp.array([3, 0], jnp.uint32)
  noise = np.zeros((2, 3, 2, _U), np.float32)
  keys = _keys()
  for at in np.ndindex(2, 3):
    for i, sample_id in enumerate((3, 0)):
      key = jax.random.fold_in(keys[at], sample_id)
      noise[at][i] = jax.random.uniform(key, (_U,)) - 0.5
  found = _apply(hidden, keys, ids, method="sample")
  assert relative_error(found, _apply(hidden, jnp.asarray(noise))) < 1e-5


def test_loss_is_that_of_samples_zero_to_n():
  hidden, _ = _inputs()
  mean = jax.random.normal(jax.random.key(1), (2, 3, _Z))
  found = _apply(hidden, mean, mean - 1, _keys(), method="loss")
  samples = _apply(
    hidden, _keys(), jnp.arange(_N, dtype=jnp.uint32), method="sample"
  )
  target_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 2**31)))
  expected, _ = energy_loss(
    samples,
    mean,
    mean - 1,
    target_keys(_keys()),
    num_targets=6,
    distance=Distance("energy", 1.3),
  )
  np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
  np.testing.assert_allclose(
    found.metrics["sample_spread"], np.std(samples, axis=2).mean(-1), rtol=1e-5
  )
  np.testing.assert_allclose(
    found.metrics["energy_fidelity"] - found.metrics["energy_diversity"],
    found.loss,
    rtol=1e-5,
  )


def test_loss_reaches_every_parameter():
  hidden, _ = _inputs()
  mean = jax.random.normal(jax.random.key(1), (2, 3, _Z))

  def loss(params):
    args = (hidden, mean, mean - 1, _keys())
    return _apply(*args, params=params, method="loss").loss.mean()

  gradients = jax.jit(jax.grad(loss))(_params())
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, path


def test_bfloat16_follows_float32():
  whole, half = (_apply(*_inputs(), dtype=d) for d in ("float32", "bfloat16"))
  assert half.dtype == jnp.float32
  assert 1e-5 < relative_error(half, whole) < 5e-2
