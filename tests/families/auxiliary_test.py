"""Tests the auxiliary token loss of next-vector models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax import config as configs
from calm_jax.families import costs, family_of, param_shapes
from calm_jax.families.table import build_model
from calm_jax.layers.parameters import init_params
from calm_jax.losses.mean import compute
from calm_jax.randomness import stream_key
from calm_jax.scaling import flops
from calm_jax.training import sharding
from calm_jax.training.step import Program
from tests.cached import cached
from tests.perturbation import bind, relative_error
from tests.training import tiny
from tests.training.gradients import mesh_gradients

_KEY = stream_key(3, "test")
_WEIGHT = 0.3


def _experiment(weight=_WEIGHT, **changes):
  config = tiny.experiment("next_vector", **changes)
  config.model = dataclasses.replace(
    config.model,
    auxiliary_weight=weight,
    auxiliary_size=config.autoencoder.hidden_size if weight else None,
  )
  return config


@cached
def _frozen():
  return tiny.params(_experiment().autoencoder, seed=2)


def _loss_and_gradient(config, params):
  objective = family_of(config.model).objective(config)
  # An operation at a time: programs compiled apart may round apart.
  grad_fn = jax.value_and_grad(objective, has_aux=True)
  (total, means), gradient = grad_fn(
    params, _frozen(), tiny.batch(config), _KEY
  )
  return total, means, gradient


@cached
def _with_auxiliary():
  config = _experiment()
  params = tiny.params(config.model)
  return config, params, *_loss_and_gradient(config, params)


def _without(params):
  return {name: it for name, it in params.items() if name != "auxiliary"}


def _definition(hidden, auxiliary, table, labels, counted):
  """Σ of nats, and its gradients, in float64."""
  hidden, table = np.float64(hidden), np.float64(table)
  kernel, bias = (np.float64(auxiliary[it]) for it in ("kernel", "bias"))
  vocabulary = tiny.VOCABULARY
  ids = np.arange(len(table))
  scored = (ids < vocabulary.size) & (ids != vocabulary.begin_id)
  read = hidden @ kernel + bias
  read = read.reshape(*labels.shape, table.shape[1])
  logits = np.where(scored, read @ table.T, -np.inf)
  top = logits.max(axis=-1, keepdims=True)
  odds = np.exp(logits - top)
  norm = odds.sum(axis=-1, keepdims=True)
  own = np.take_along_axis(logits, labels[..., None], -1)
  nats = (top + np.log(norm) - own)[..., 0]
  slope = (odds / norm - (labels[..., None] == ids)) * counted[..., None, None]
  slope = (slope @ table).reshape(*hidden.shape[:2], -1)
  return (
    nats[counted].sum(),
    {
      "kernel": np.einsum("bld,ble->de", hidden, slope),
      "bias": slope.sum(axis=(0, 1)),
    },
    slope @ kernel.T,
  )


def _targets(batch):
  """Hidden states' next chunks, and which of them count."""
  counted = batch.token_mask.all(axis=-1)[:, 1:]
  counted = np.pad(counted, ((0, 0), (0, 1)))
  labels = np.where(
    counted[..., None],
    np.roll(batch.tokens, -1, axis=1),
    tiny.VOCABULARY.end_id,
  )
  return labels, counted


def test_value_and_gradient_are_those_of_the_definition():
  config, params, total, means, gradient = _with_auxiliary()
  plain = dataclasses.replace(
    config.model, auxiliary_weight=0.0, auxiliary_size=None
  )
  head_total, _, head_gradient = _loss_and_gradient(
    dataclasses.replace(config, model=plain), _without(params)
  )
  batch = tiny.batch(config)
  labels, counted = _targets(batch)
  assert 0 < counted.sum() < counted.size
  hidden_fn = lambda params: build_model(plain).apply(
    {"params": params}, batch.tokens, method="hidden"
  )
  hidden, pull = jax.vjp(hidden_fn, _without(params))
  table = _frozen()["embedding"]["embedding"]
  nats, slopes, hidden_slope = _definition(
    hidden, params["auxiliary"], table, labels, counted
  )
  np.testing.assert_allclose(total, head_total + _WEIGHT * nats, rtol=1e-5)
  values = compute(jax.device_get(means))
  num_tokens = counted.sum() * tiny.CHUNK_SIZE
  assert relative_error(values["auxiliary_nats"], nats / num_tokens) < 1e-5
  assert relative_error(values["head_loss"], head_total / counted.sum()) < 1e-5
  for name, slope in slopes.items():
    found = gradient["auxiliary"][name]
    assert relative_error(found, _WEIGHT * slope) < 1e-5, name
  (through_hidden,) = pull(jnp.asarray(_WEIGHT * hidden_slope, hidden.dtype))
  # The head's own parameters see nothing of it.
  expected = jax.tree.map(jnp.add, head_gradient, through_hidden)
  jax.tree.map(
    np.testing.assert_array_equal, gradient["head"], head_gradient["head"]
  )
  for part in ("backbone", "chunk_embed"):
    for found, wanted in zip(
      jax.tree.leaves(gradient[part]),
      jax.tree.leaves(expected[part]),
      strict=True,
    ):
      assert relative_error(found, wanted) < 1e-4, part


def test_nothing_flows_into_the_frozen_autoencoder():
  config, params, *_ = _with_auxiliary()
  objective = family_of(config.model).objective(config)
  gradient = jax.jit(jax.grad(objective, argnums=1, has_aux=True))
  found, _ = gradient(params, _frozen(), tiny.batch(config), _KEY)
  assert all(not leaf.any() for leaf in jax.tree.leaves(found))


def _started(config):
  family = family_of(config.model)
  inputs = family.example_inputs(config.model)
  return init_params(family.build(config.model), jax.random.key(0), *inputs)


def test_without_weight_there_is_nothing_and_with_it_the_rest_is_the_same():
  config = _experiment()
  plain = tiny.experiment("next_vector")
  assert _experiment(weight=0.0) == plain
  assert "auxiliary" not in param_shapes(build_model(plain.model))
  found, expected = _started(config), _started(plain)
  size = tiny.CHUNK_SIZE * config.autoencoder.hidden_size
  kernel = found.pop("auxiliary")["kernel"]
  assert kernel.shape == (config.model.hidden_size, size)
  assert kernel.dtype == jnp.float32
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_samples_are_those_without_it():
  config, params, *_ = _with_auxiliary()
  plain = tiny.experiment("next_vector")
  tokens = tiny.batch(config).tokens
  keys = jnp.broadcast_to(_KEY, tokens.shape[:2])
  found = bind(build_model(config.model), params)(tokens, keys)
  expected = bind(build_model(plain.model), _without(params))(tokens, keys)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_a_mesh_and_microbatches_give_what_one_device_gives(num_microbatches):
  mesh_config = configs.MeshConfig(data=2, fsdp=2, tensor=2)
  config = _experiment(mesh=mesh_config)
  program = Program(config, sharding.make_mesh(mesh_config))
  kernel = program.shapes.params["auxiliary"]["kernel"]
  assert tuple(kernel.sharding.spec) == ("fsdp", "tensor")
  found, means = mesh_gradients(
    config, program, _frozen(), _KEY, num_microbatches
  )
  wanted_means, wanted = _with_auxiliary()[3:]
  count = float(wanted_means["loss"].count)
  values, wanted_values = (
    compute(jax.device_get(it)) for it in (means, wanted_means)
  )
  for name in ("loss", "auxiliary_nats", "head_loss"):
    assert relative_error(values[name], wanted_values[name]) < 1e-5, name
  for here, there in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    assert relative_error(here, there / count) < 1e-5


def test_it_is_counted():
  config = _experiment()
  model, autoencoder = config.model, config.autoencoder
  width, size = model.hidden_size, tiny.CHUNK_SIZE * autoencoder.hidden_size
  assert flops.num_parameters(model)["auxiliary"] == (width + 1) * size
  plain = tiny.experiment("next_vector").model
  assert "auxiliary" not in flops.num_parameters(plain)
  for convention in ("paper", "executed"):
    counts = functools.partial(
      flops.training_flops_per_token,
      autoencoder=autoencoder,
      num_positions=8,
      convention=convention,
    )
    found = counts(model)
    # The Linear forward and twice backward; the frozen table once each way.
    assert found.pop("auxiliary") == 3 * 2 * width * size / tiny.CHUNK_SIZE
    table = autoencoder.hidden_size * model.vocabulary.padded_size
    assert found.pop("auxiliary_logits") == 2 * 2 * table
    assert found == counts(plain)
  generated = costs.generation_flops_per_token(model, autoencoder, 8, 1)
  assert generated == costs.generation_flops_per_token(plain, autoencoder, 8, 1)


def test_it_is_no_news_to_whoever_reads_the_model():
  assert configs.news(_experiment().model) == {}


def test_its_width_is_the_autoencoders():
  config = _experiment()
  config.model.auxiliary_size = None
  resolved = configs.resolve(
    config, vocabulary=tiny.VOCABULARY, autoencoder=config.autoencoder
  )
  assert resolved.model.auxiliary_size == config.autoencoder.hidden_size
  config.model.auxiliary_size = 17
  with pytest.raises(ValueError, match=r"auxiliary_size 17 .* hidden_size 16"):
    configs.resolve(
      config, vocabulary=tiny.VOCABULARY, autoencoder=config.autoencoder
    )
  with pytest.raises(ValueError, match="auxiliary_weight 0"):
    dataclasses.replace(config.model, auxiliary_weight=0.0)
  with pytest.raises(ValueError, match="auxiliary_weight is -1"):
    dataclasses.replace(config.model, auxiliary_weight=-1.0)
