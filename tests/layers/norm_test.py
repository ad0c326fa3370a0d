"""Tests calm_jax/layers/norm.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.layers.norm import LayerNorm, RMSNorm
from calm_jax.layers.parameters import init_params
from tests.perturbation import perturb
from tests.residuals import residuals


def _case():
  x = 1000 + np.random.default_rng(0).normal(size=(3, 64))
  return x.astype(np.float32)


def test_layer_norm_with_a_large_mean():
  x = _case()
  module = LayerNorm(1e-6)
  params = perturb(init_params(module, jax.random.key(0), jnp.asarray(x)))
  scale, bias = (np.asarray(params["norm"][k]) for k in ("scale", "bias"))
  wide = x.astype(np.float64)
  centred = wide - wide.mean(-1, keepdims=True)
  expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  found = module.apply({"params": params}, jnp.asarray(x))
  np.testing.assert_allclose(found, expected * scale + bias, atol=2e-4)


def test_rms_norm():
  x = _case()
  module = RMSNorm(1e-6)
  params = perturb(init_params(module, jax.random.key(0), jnp.asarray(x)))
  wide = x.astype(np.float64)
  expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6)
  found = module.apply({"params": params}, jnp.asarray(x))
  expected *= np.asarray(params["norm"]["scale"])
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("norm", [RMSNorm(), LayerNorm()])
def test_bfloat16_is_computed_in_float32(norm):
  x = jnp.asarray(_case(), jnp.bfloat16)
  params = init_params(norm, jax.random.key(0), x)
  found = norm.apply({"params": params}, x)
  wide = norm.apply({"params": params}, x.astype(jnp.float32))
  assert found.dtype == jnp.bfloat16
  assert (found == wide.astype(jnp.bfloat16)).all()


@pytest.mark.parametrize("norm", [RMSNorm(), LayerNorm()])
def test_keeps_its_input_as_it_came(norm):
  x = jnp.asarray(_case(), jnp.bfloat16)
  params = init_params(norm, jax.random.key(0), x)
  kept = residuals(lambda x, it: norm.apply({"params": it}, x), x, params)
  assert ("bfloat16", x.shape) in kept
  assert ("float32", x.shape) not in kept
