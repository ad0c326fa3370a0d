"""Models to test: random parameters and compiled calls.

Every parameter is random, the zero-initialised output layers included: at
their initial values a broken model would pass everything.
"""

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.layers.parameters import init_params


def perturb(params, seed=1, scale=0.1):
  """Adds normal noise of the given scale to every parameter."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda leaf: (
      leaf + jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)
    ),
    params,
  )


def random_params(model, *inputs, seed=1, scale=0.1):
  """Normal parameters, norms' scales around 1, without compiling `init`."""
  shapes = jax.eval_shape(
    lambda *x: init_params(model, jax.random.key(0), *x), *inputs
  )
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    centre = 1.0 if path[-1].key == "scale" else 0.0
    noise = rng.normal(centre, scale, leaf.shape)
    return jnp.asarray(noise, leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def bind(model, params):
  """A compiled `call(*inputs, method=name)` of a model with its parameters."""
  apply = jax.jit(model.apply, static_argnames="method")
  return lambda *inputs, method=None, **kwargs: apply(
    {"params": params}, *inputs, method=method, **kwargs
  )


def relative_error(found, expected):
  """max|found − expected| / max|expected|."""
  scale = jnp.max(jnp.abs(expected))
  return float(jnp.max(jnp.abs(found - expected)) / scale)
