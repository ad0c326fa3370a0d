"""Parameters away from their initial values.

Zero-initialised output layers and norms at one would hide a broken model.
"""

import jax
import jax.numpy as jnp


def perturb(params, seed=1, scale=0.1):
  """Adds normal noise of the given scale to every parameter."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  noisy = [
    leaf + scale * jax.random.normal(key, leaf.shape, leaf.dtype)
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  return jax.tree.unflatten(tree, noisy)


def relative_error(found, expected):
  """max|found − expected| / max|expected|."""
  scale = jnp.max(jnp.abs(expected))
  return float(jnp.max(jnp.abs(found - expected)) / scale)
