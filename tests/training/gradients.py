"""Gradients of a run on a mesh, for comparison with one device."""

import functools

import jax

from calm_jax.families import family_of
from calm_jax.training import sharding
from calm_jax.training.step import accumulated_gradients
from tests.training import tiny


def mesh_gradients(config, program, frozen, key, num_microbatches=1):
  """Mean gradients at random parameters, and what is logged beside them."""
  mesh = program.mesh
  places = jax.tree.map(lambda x: x.sharding, program.shapes.params)
  compiled = jax.jit(
    functools.partial(
      accumulated_gradients,
      family_of(config.model).objective(config),
      num_microbatches=num_microbatches,
    ),
    out_shardings=(places, sharding.replicated(mesh)),
  )
  with jax.set_mesh(mesh):
    return compiled(
      jax.device_put(tiny.params(config.model), places),
      jax.device_put(frozen, sharding.replicated(mesh)),
      sharding.global_batch(mesh, tiny.batch(config), 1),
      key=key,
    )
