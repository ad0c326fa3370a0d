"""Tests calm_jax/model: causality, caches, heads behind one interface."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.config import (
  EnergyHeadConfig,
  MeshConfig,
  NextVectorConfig,
  TokenModelConfig,
  VocabularyConfig,
)
from calm_jax.layers.parameters import init_params, logical_axes
from calm_jax.model import NextVectorModel, TokenModel, empty_cache
from calm_jax.randomness import position_keys, stream_key
from calm_jax.sampling import rows
from calm_jax.training.sharding import make_mesh
from tests.cached import cached
from tests.perturbation import bind, random_params, relative_error

_VOCABULARY = VocabularyConfig(
  size=50, begin_id=48, end_id=49, unscored_ids=(48,)
)
_BACKBONE = {
  "vocabulary": _VOCABULARY,
  "hidden_size": 32,
  "ffn_size": 48,
  "num_layers": 2,
  "num_heads": 4,
  "num_kv_heads": 2,
}
_ROWS, _CHUNKS = 2, 6


def _keys():
  ids = jnp.arange(8, dtype=jnp.uint32)
  return position_keys(stream_key(0, "test"), ids[:_ROWS], ids[:_CHUNKS])


@cached
def _next_vector(chunk_size=4, head=None, **changes):
  config = NextVectorConfig(
    **_BACKBONE,
    chunk_size=chunk_size,
    latent_size=5,
    head=head or EnergyHeadConfig(noise_size=8, num_samples=3, num_targets=4),
    **changes,
  )
  model = NextVectorModel(config)
  shape = (_ROWS, _CHUNKS, chunk_size)
  rng = np.random.default_rng(2)
  tokens = jnp.asarray(rng.integers(0, 48, shape), jnp.int32)
  latents = jnp.asarray(rng.normal(size=(_ROWS, _CHUNKS, 5)), jnp.float32)
  params = random_params(model, tokens, _keys(), latents)
  return model, params, tokens, latents


@cached
def _token_model(**changes):
  model = TokenModel(TokenModelConfig(**_BACKBONE, **changes))
  shape = (_ROWS, _CHUNKS, 1)
  rng = np.random.default_rng(2)
  tokens = jnp.asarray(rng.integers(0, 48, shape), jnp.int32)
  return model, random_params(model, tokens), tokens


def _assert_causal(jacobian):
  """jacobian [L out, L in] of magnitudes: zero above the diagonal only."""
  above = np.triu(np.ones_like(jacobian), 1).astype(bool)
  assert (jacobian[above] == 0).all()
  assert (jacobian[~above] > 0).all()


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_backbone_is_causal(implementation):
  model, params, tokens, _ = _next_vector(
    attention_implementation=implementation
  )
  variables = {"params": params}
  embed = lambda module, t: module.chunk_embed(t)
  run = lambda module, x: module.backbone(x)[0]
  x = model.apply(variables, tokens[:1], method=embed)
  jacobian = jax.jit(
    jax.jacobian(lambda x: model.apply(variables, x, method=run))
  )
  full = jacobian(x)
  _assert_causal(np.abs(full[0, :, :, 0]).max(axis=(1, 3)))


def test_each_hidden_state_reads_every_token_of_its_chunk():
  model, params, tokens, _ = _next_vector()
  call = bind(model, params)
  hidden = lambda t: call(t, method="hidden")
  base = hidden(tokens)
  for k in range(4):
    other = tokens.at[:, 3, k].set((tokens[:, 3, k] + 1) % 48)
    changed = jnp.any(hidden(other) != base, axis=(0, 2))
    assert changed.tolist() == [False] * 3 + [True] * 3


def test_segments_are_separate_when_asked():
  for use in (False, True):
    model, params, tokens, _ = _next_vector(use_segment_mask=use)
    segments = jnp.array([[0, 0, 1, 1, 1, 1]] * _ROWS)
    call = bind(model, params)
    hidden = lambda t, call=call, s=segments: call(
      t, segment_ids=s, method="hidden"
    )
    other = tokens.at[:, 0].set((tokens[:, 0] + 1) % 48)
    changed = jnp.any(hidden(tokens) != hidden(other), axis=(0, 2))
    assert changed.tolist() == [True, True] + [not use] * 4


def _steps(model, params, tokens, sizes, extra=()):
  """Hidden states of the row read in pieces of the given sizes."""
  cache = empty_cache(model.config, _ROWS, _CHUNKS + 2)
  slots = jnp.arange(_CHUNKS + 2)
  found, start = [], 0
  call = bind(model, params)
  for size in sizes:
    piece = slice(start, start + size)
    positions = jnp.broadcast_to(jnp.arange(_CHUNKS)[piece], (_ROWS, size))
    sees_itself = jnp.tril(jnp.ones((size, size), bool))
    sees_slots = jnp.broadcast_to(slots < start, (size, len(slots)))
    mask = jnp.concatenate([sees_slots, sees_itself], axis=1)[None]
    hidden, cache = call(
      tokens[:, piece],
      positions,
      cache,
      jnp.broadcast_to(mask, (_ROWS, *mask.shape[1:])),
      *(x[:, piece] for x in extra),
      slot=jnp.int32(start),
      method="step",
    )
    found.append(hidden)
    start += size
  return jnp.concatenate(found, axis=1)


@pytest.mark.parametrize("inputs", ["tokens", "latent", "both"])
def test_cached_equals_uncached(inputs):
  model, params, tokens, latents = _next_vector(inputs=inputs)
  whole = bind(model, params)(tokens, latents, method="hidden")
  for sizes in ([1] * 6, [3, 1, 2], [6]):
    pieces = _steps(model, params, tokens, sizes, (latents,))
    assert relative_error(pieces, whole) < 1e-5


def test_a_cache_is_extended_by_what_is_read_without_a_slot():
  model, params, tokens, _ = _next_vector()
  whole = bind(model, params)(tokens, method="hidden")
  cache = empty_cache(model.config, _ROWS, 0)
  for start in range(_CHUNKS):
    hidden, cache = bind(model, params)(
      tokens[:, start : start + 1],
      jnp.full((_ROWS, 1), start),
      cache,
      jnp.ones((_ROWS, 1, start + 1), bool),
      method="step",
    )
    assert cache.key.shape[-1] == start + 1
    assert relative_error(hidden[:, 0], whole[:, start]) < 1e-5


def test_token_model_cached_equals_uncached():
  model, params, tokens = _token_model()
  whole = bind(model, params)(tokens, method="hidden")
  pieces = _steps(model, params, tokens, [2, 1, 3])
  assert relative_error(pieces, whole) < 1e-5


@pytest.mark.parametrize(
  ("num_devices", "remat", "num_loops"),
  [(0, "none", 0), (1, "none", 0), (1, "full", 2), (2, "none", 2)],
)
def test_layers_are_written_out_on_a_lone_cpu(num_devices, remat, num_loops):
  """And give what a loop over them gives, with its gradient."""
  looped, params, tokens = _token_model(remat="full")
  model, *_ = _token_model(remat=remat)

  def slope(model):
    call = lambda params: bind(model, params)(tokens, method="hidden")
    return jax.jit(jax.value_and_grad(lambda it: jnp.sum(call(it) ** 2)))

  expected = slope(looped)(params)
  mesh = None
  if num_devices:
    mesh = make_mesh(MeshConfig(data=-1), jax.devices()[:num_devices])
  with rows.on(mesh):
    lowered = slope(model).lower(params)
    found = lowered.compile()(params)
  assert lowered.as_text().count("stablehlo.while") == num_loops
  error = jax.tree.map(relative_error, found, expected)
  assert max(jax.tree.leaves(error)) < 1e-5


def test_token_model_cross_entropy_is_that_of_its_logits():
  model, params, tokens = _token_model()
  call = lambda *x, method: bind(model, params)(*x, method=method)
  hidden = call(tokens, method="hidden")
  logits = np.asarray(call(hidden, method="logits"), np.float64)
  assert np.isneginf(logits[..., [48, *range(50, 128)]]).all()
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = -np.take_along_axis(log_p, np.asarray(tokens), -1)[..., 0]
  found = call(hidden, tokens[..., 0], method="cross_entropy")
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 8, 9])
def test_any_chunk_size(chunk_size):
  model, params, tokens, _ = _next_vector(chunk_size)
  latents = bind(model, params)(tokens, _keys())
  assert latents.shape == (_ROWS, _CHUNKS, 1, 5)
  assert jnp.isfinite(latents).all()


def test_samples_depend_on_key_and_id_alone():
  model, params, tokens, _ = _next_vector()
  hidden = bind(model, params)(tokens, method="hidden")
  keys = _keys()
  sample = lambda h, k, ids: bind(model, params)(
    h, k, jnp.asarray(ids, jnp.uint32), method="sample"
  )
  whole = sample(hidden, keys, range(5))
  assert (
    relative_error(sample(hidden, keys, [3, 1]), whole[..., [3, 1], :]) < 1e-5
  )
  part = sample(hidden[1:, 2:], keys[1:, 2:], range(5))
  assert relative_error(part, whole[1:, 2:]) < 1e-5
  assert len(np.unique(np.asarray(whole[..., 0]))) == whole[..., 0].size


def test_noise_scale_zero_makes_samples_coincide():
  model, params, tokens, _ = _next_vector()
  hidden = bind(model, params)(tokens, method="hidden")
  ids = jnp.arange(4, dtype=jnp.uint32)
  sample = lambda scale: bind(model, params)(
    hidden, _keys(), ids, scale, method="sample"
  )
  assert float(jnp.ptp(sample(0.0), axis=-2).max()) == 0
  assert float(jnp.ptp(sample(1.0), axis=-2).min()) > 0


def test_loss_at_the_start_is_finite_with_finite_gradients():
  """The zero-initialised output makes all samples coincide."""
  model, _, tokens, _ = _next_vector()
  params = init_params(model, jax.random.key(0), tokens, _keys())
  mean = jax.random.normal(jax.random.key(4), (_ROWS, _CHUNKS, 5))

  def loss(params):
    hidden = bind(model, params)(tokens, method="hidden")
    out = bind(model, params)(hidden, mean, mean - 1, _keys(), method="loss")
    return out.loss.mean()

  value, gradient = jax.jit(jax.value_and_grad(loss))(params)
  assert jnp.isfinite(value)
  for leaf in jax.tree.leaves(gradient):
    assert jnp.isfinite(leaf).all()
  assert any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_every_parameter_names_its_axes():
  model, params, tokens, _ = _next_vector()
  axes = logical_axes(model, tokens, _keys())
  names = jax.tree.map(
    lambda array, name: (array.ndim, len(name)), params, axes
  )
  assert all(
    a == b
    for a, b in jax.tree.leaves(names, is_leaf=lambda x: isinstance(x, tuple))
  )
  query = axes["backbone"]["layers"]["attention"]["query"]["kernel"]
  assert tuple(query) == ("layers", "embed", "heads", "head_dim")


def test_bfloat16_stays_close():
  model, params, tokens, _ = _next_vector()
  config = dataclasses.replace(model.config, dtype="bfloat16")
  half = NextVectorModel(config)
  hidden = lambda m: bind(m, params)(tokens, method="hidden")
  assert hidden(half).dtype == jnp.bfloat16
  assert relative_error(hidden(half).astype(jnp.float32), hidden(model)) < 0.05


def test_short_weights_are_not_written_in_float32_on_a_cpu():
  config = TokenModelConfig(
    **_BACKBONE | {"num_layers": 16, "hidden_size": 128, "ffn_size": 512},
    dtype="bfloat16",
  )
  model, tokens = TokenModel(config), jnp.zeros((1, 2, 1), jnp.int32)
  params = init_params(model, jax.random.key(0), tokens)
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  cache, mask = empty_cache(config, 1, 0), jnp.tril(jnp.ones((1, 2, 2), bool))

  @jax.jit
  def step(params):
    call = functools.partial(model.apply, {"params": params}, method="step")
    return call(tokens, jnp.arange(2)[None], cache, mask)[0]

  memory = step.lower(params).compile().memory_analysis()
  num_bytes = sum(x.nbytes for x in jax.tree.leaves(params))
  assert memory.temp_size_in_bytes < 1.2 * num_bytes  # else more than twice
