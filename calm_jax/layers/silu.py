"""SiLU and the gate made of it, in float32, returned in the dtype of the input.

Both are computed again in the backward pass, which so keeps their inputs and
nothing in between; those are the results of products, which it needs anyway.
"""

import functools

import jax
import jax.numpy as jnp

# The compiler may still share what lies in reach in both passes.
_recomputed = functools.partial(jax.checkpoint, prevent_cse=False)


@_recomputed
def silu(x: jax.Array) -> jax.Array:
  """x · σ(x)."""
  return _silu(x).astype(x.dtype)


@_recomputed
def silu_gate(gate: jax.Array, x: jax.Array) -> jax.Array:
  """SiLU(gate) ⊙ x."""
  return (_silu(gate) * x.astype(jnp.float32)).astype(x.dtype)


def _silu(x):
  return jax.nn.silu(x.astype(jnp.float32))
