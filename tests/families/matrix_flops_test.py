"""Tests calm_jax/families/matrix_flops.py against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from calm_jax.families.matrix_flops import matrix_flops

_X, _W = np.ones((3, 5), np.float32), np.ones((5, 5), np.float32)
_ONE = 2 * 3 * 5 * 5


def _count(function, *arguments):
  return matrix_flops(jax.make_jaxpr(function)(*arguments))


def test_a_product():
  assert _count(jnp.dot, _X, _W) == _ONE
  batched = _count(
    lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
    np.ones((7, 2, 3)),
    np.ones((7, 3, 4)),
  )
  assert batched == 7 * 2 * 2 * 3 * 4


def test_every_pass_of_a_loop_and_what_is_computed_again():
  def chain(x, w):
    return jax.lax.scan(lambda x, _: (jnp.dot(x, w), None), x, length=6)[0]

  assert _count(jax.jit(chain), _X, _W) == 6 * _ONE
  total = lambda w: jnp.sum(jnp.sin(jnp.dot(_X, w)))
  assert _count(jax.grad(total), _W) == 2 * _ONE
  assert _count(jax.grad(jax.checkpoint(total)), _W) == 3 * _ONE


def test_one_branch_and_all_devices():
  once = lambda: jnp.dot(_X, _W)
  either = lambda i: jax.lax.cond(i, lambda: jnp.dot(once(), _W), once)
  assert _count(either, True) == _ONE  # at least
  on_tpu = lambda x, w: jax.lax.platform_dependent(
    x, w, tpu=jnp.dot, default=lambda x, w: jnp.dot(jnp.dot(x, w), w)
  )
  assert _count(on_tpu, _X, _W) == _ONE
  total = lambda w: jnp.sum(jnp.sin(on_tpu(_X, w)))
  assert _count(jax.grad(jax.checkpoint(total)), _W) == 3 * _ONE
  mesh = Mesh(np.array(jax.devices()), "a")
  apart = jax.shard_map(
    lambda x, w: x @ w,
    mesh=mesh,
    in_specs=(PartitionSpec("a"), PartitionSpec()),
    out_specs=PartitionSpec("a"),
  )
  rows = np.ones((3 * mesh.size, 5), np.float32)
  assert _count(apart, rows, _W) == pytest.approx(mesh.size * _ONE)
