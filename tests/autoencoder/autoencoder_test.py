"""Tests calm_jax/autoencoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.autoencoder import Autoencoder
from calm_jax.config import AutoencoderConfig, VocabularyConfig
from calm_jax.layers.parameters import logical_axes
from tests.cached import cached
from tests.perturbation import bind, random_params

_VOCABULARY = VocabularyConfig(
  size=50, begin_id=48, end_id=49, unscored_ids=(48,)
)


@cached
def _build(chunk_size=4, **changes):
  config = AutoencoderConfig(
    vocabulary=_VOCABULARY,
    chunk_size=chunk_size,
    latent_size=6,
    hidden_size=16,
    ffn_size=24,
    **changes,
  )
  model = Autoencoder(config)
  rng = np.random.default_rng(2)
  tokens = jnp.asarray(rng.integers(0, 48, (2, 3, chunk_size)), jnp.int32)
  params = random_params(model, tokens)
  return model, params, tokens


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 8, 11])
def test_shapes_and_float32_posterior(chunk_size):
  model, params, tokens = _build(chunk_size, dtype="bfloat16")
  call = bind(model, params)
  posterior = call(tokens, method="encode")
  assert posterior.mean.shape == posterior.log_std.shape == (2, 3, 6)
  assert posterior.mean.dtype == posterior.log_std.dtype == jnp.float32
  ids = call(posterior.mean, method="decode_tokens")
  assert ids.shape == tokens.shape and ids.dtype == jnp.int32
  assert call(posterior.mean, method="logits").dtype == jnp.float32


def test_chunks_are_encoded_alone():
  model, params, tokens = _build()
  call = bind(model, params)
  encode = lambda t: call(t, method="encode")
  other = tokens.at[0, 1, 2].set((tokens[0, 1, 2] + 1) % 50)
  before, after = encode(tokens).mean, encode(other).mean
  changed = jnp.any(before != after, axis=-1)
  assert changed.tolist() == [[False, True, False], [False] * 3]


def test_masked_tokens_are_the_mask_id():
  model, params, tokens = _build()
  call = bind(model, params)
  encode = lambda *x: call(*x, method="encode")
  is_masked = jnp.zeros(tokens.shape, bool).at[1, 2, 0].set(True)
  by_hand = tokens.at[1, 2, 0].set(_VOCABULARY.mask_id)
  np.testing.assert_array_equal(
    encode(tokens, is_masked).mean, encode(by_hand).mean
  )
  assert jnp.any(encode(tokens, is_masked).mean != encode(tokens).mean)


def test_decoding_reads_the_logits_of_scored_ids():
  model, params, _ = _build()
  latents = 3 * jax.random.normal(jax.random.key(5), (40, 6))
  call = bind(model, params)
  logits = np.array(call(latents, method="logits"), np.float64)
  assert logits.shape == (40, 4, 128)
  logits[..., 48] = -np.inf
  logits[..., 50:] = -np.inf
  ids = call(latents, method="decode_tokens")
  np.testing.assert_array_equal(ids, logits.argmax(-1))
  labels = jnp.asarray(np.arange(160).reshape(40, 4) % 48)
  nats = call(latents, labels, method="cross_entropy")
  shifted = logits - logits.max(-1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  expected = -np.take_along_axis(log_p, np.asarray(labels)[..., None], -1)
  np.testing.assert_allclose(nats, expected[..., 0], rtol=1e-5, atol=1e-5)


def test_every_parameter_names_its_axes():
  model, params, tokens = _build()
  axes = logical_axes(model, tokens)
  ranks = jax.tree.map(
    lambda array, names: array.ndim == len(names), params, axes
  )
  assert all(jax.tree.leaves(ranks))
