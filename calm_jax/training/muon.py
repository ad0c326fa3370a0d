"""Muon: matrices follow their orthogonalised momentum.

Which parameters are matrices is what their logical axes say. Layers are
stacked, so their ranks do not tell a matrix from a stack of vectors.
"""

import collections
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from calm_jax.training.sharding import MESH_AXES, PARAMETER_AXES

# Kernels from hidden states to hidden states, by the axes of one layer; heads
# are columns side by side. All else stays with AdamW: tables ("vocab"), what
# reads or writes latents, noise, times or mixture weights, biases, norms.
_MATRICES = (
  ("embed", "mlp"),
  ("mlp", "embed"),
  ("embed", "heads", "head_dim"),
  ("embed", "kv_heads", "head_dim"),
  ("heads", "head_dim", "embed"),
)

# X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X moves singular values near 1 in few iterations;
# these coefficients give up reaching 1 for lifting the small ones fast.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NUM_ITERATIONS = 5
_EPSILON = 1e-8

# What the root mean square of an update is to be, so that AdamW's learning
# rates and weight decay serve both.
_UPDATE_RMS = 0.2

# How stacks of matrices, [N, embed, other], come from where their parameters
# are to where each device has whole matrices. One mesh axis moves at a time,
# which is an all-to-all: in a single move the compiler gathers everything.
_EMBED, _OTHER = PARAMETER_AXES["embed"], PARAMETER_AXES["mlp"]
_COPIES = tuple(axis for axis in MESH_AXES if axis not in (_EMBED, _OTHER))
_WAY = (
  PartitionSpec(None, _EMBED, _OTHER),
  PartitionSpec(_COPIES, _EMBED, _OTHER),
  PartitionSpec((*_COPIES, _EMBED), None, _OTHER),
  PartitionSpec((*_COPIES, _EMBED, _OTHER)),
)


class MuonState(NamedTuple):
  """What Muon keeps."""

  count: jax.Array  # [] int32, steps done
  momentum: Any  # tree of the matrices, float32


def is_matrix(axes: PartitionSpec) -> bool:
  """Whether a parameter with these logical axes is one for Muon."""
  return _layer_axes(axes) in _MATRICES


def scale_by_muon(
  axes: list[PartitionSpec], beta: float
) -> optax.GradientTransformation:
  """Muon (Jordan, 2024), scaled as by Liu et al. (2025, arXiv:2502.16982).

    m ← β·m + (1 − β)·g
    u = 0.2·√max(rows, columns) · orthogonal( β·m̂ + (1 − β)·ĝ )

  m̂ and ĝ are without bias towards 0. As `optax.contrib.muon` with
  `consistent_rms`, but matrices of one shape, of whatever layer or part of the
  model, are orthogonalised as one stack that is shared out over all devices:
  the matrices move twice a step, and the iterations exchange nothing.

  Args:
    axes: logical axes of every parameter it is given, in the order of leaves.
    beta: decay of the momentum.

  Returns:
    The transformation; its state is float32 and has the shape of p once.
  """

  def init(params: Any) -> MuonState:
    return MuonState(jnp.zeros((), jnp.int32), optax.tree.zeros_like(params))

  def update(
    gradients: Any, state: MuonState, params: Any = None
  ) -> tuple[Any, MuonState]:
    del params
    count = optax.safe_increment(state.count)
    momentum = optax.tree.update_moment(gradients, state.momentum, beta, 1)
    ahead = jax.tree.map(
      lambda m, g: beta * m + (1 - beta) * g,
      optax.tree.bias_correction(momentum, beta, optax.safe_increment(count)),
      optax.tree.bias_correction(gradients, beta, count),
    )
    leaves, tree = jax.tree.flatten(ahead)
    updates = _orthogonal_updates(leaves, axes)
    return tree.unflatten(updates), MuonState(count, momentum)

  return optax.GradientTransformation(init, update)


def orthogonalise(x: jax.Array) -> jax.Array:
  """Moves the singular values of each matrix of x, [N, n, m], near 1."""
  product = lambda a, b: jnp.matmul(a, b, precision="highest")
  is_tall = x.shape[1] > x.shape[2]
  x = x.mT if is_tall else x
  x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + _EPSILON)
  for _ in range(_NUM_ITERATIONS):
    gram = product(x, x.mT)
    x = _A * x + product(_B * gram + _C * product(gram, gram), x)
  return x.mT if is_tall else x


def _orthogonal_updates(
  arrays: list[jax.Array], axes: list[PartitionSpec]
) -> list[jax.Array]:
  """Orthogonalises arrays in stacks of equally shaped matrices."""
  groups = collections.defaultdict(list)
  for i, (x, names) in enumerate(zip(arrays, axes, strict=True)):
    matrices = _oriented(x, names)
    groups[matrices.shape[1:]].append((i, matrices))
  updates = list(arrays)
  for shape, members in groups.items():
    stack = jnp.concatenate([matrices for _, matrices in members])
    stack = _UPDATE_RMS * math.sqrt(max(shape)) * _spread(stack)
    ends = itertools.accumulate(len(matrices) for _, matrices in members)
    parts = jnp.split(stack, list(ends)[:-1])
    for (i, _), part in zip(members, parts, strict=True):
      updates[i] = _restored(part, arrays[i].shape, axes[i])
  return updates


def _spread(stack: jax.Array) -> jax.Array:
  """Orthogonalises [N, n, m], each matrix whole on one device of the mesh."""
  mesh = jax.sharding.get_abstract_mesh()
  if not set(MESH_AXES) <= set(mesh.axis_names):
    return orthogonalise(stack)
  num_matrices = len(stack)
  stack = jnp.pad(stack, ((0, -num_matrices % mesh.size), (0, 0), (0, 0)))
  for place in _WAY:
    stack = jax.lax.with_sharding_constraint(stack, place)
  stack = orthogonalise(stack)
  for place in reversed(_WAY):
    stack = jax.lax.with_sharding_constraint(stack, place)
  return stack[:num_matrices]


def _layer_axes(axes: PartitionSpec) -> tuple[str | None, ...]:
  names = tuple(axes)
  return names[1:] if names[:1] == ("layers",) else names


def _oriented(x: jax.Array, axes: PartitionSpec) -> jax.Array:
  """A kernel as matrices [N, embed, other].

  One that writes hidden states is turned: the orthogonalised transpose is the
  transpose of what is orthogonalised, and all are then split in the same way.
  """
  names = _layer_axes(axes)
  num_matrices = math.prod(x.shape[: x.ndim - len(names)])
  if names[-1] == "embed":
    return x.reshape(num_matrices, -1, x.shape[-1]).mT
  return x.reshape(num_matrices, x.shape[-len(names)], -1)


def _restored(
  matrices: jax.Array, shape: tuple[int, ...], axes: PartitionSpec
) -> jax.Array:
  """The kernel of which `_oriented` made these matrices."""
  is_turned = _layer_axes(axes)[-1] == "embed"
  return (matrices.mT if is_turned else matrices).reshape(shape)
