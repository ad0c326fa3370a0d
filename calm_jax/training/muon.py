"""Muon: matrices follow their orthogonalised momentum.

Which parameters are matrices is what their logical axes say. Layers are
stacked, so their ranks do not tell a matrix from a stack of vectors.
"""

import collections
import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from calm_jax.training.sharding import MESH_AXES, PARAMETER_AXES

# Kernels from hidden states to hidden states, by the axes of one layer; heads
# are columns side by side, and K hidden states side by side are K matrices. All
# else stays with AdamW: tables ("vocab"), what reads or writes latents, noise,
# times or mixture weights, biases, norms.
_MATRICES = (
  ("embed", "mlp"),
  ("mlp", "embed"),
  ("embed", "heads", "head_dim"),
  ("embed", "kv_heads", "head_dim"),
  ("heads", "head_dim", "embed"),
  ("chunk_embed", "mlp"),
  ("chunk_mlp", "embed"),
  ("embed", "chunk_mlp"),
)

# X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X moves singular values near 1 in few iterations;
# these coefficients give up reaching 1 for lifting the small ones fast.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_NUM_ITERATIONS = 5
_EPSILON = 1e-8

# What the root mean square of an update is to be, so that AdamW's learning
# rates and weight decay serve both.
_UPDATE_RMS = 0.2

# The mesh axes that split a matrix [embed, other], and those that copy it.
_EMBED, _OTHER = PARAMETER_AXES["embed"], PARAMETER_AXES["mlp"]
_COPIES = tuple(axis for axis in MESH_AXES if axis not in (_EMBED, _OTHER))


class MuonState(NamedTuple):
  """What Muon keeps."""

  count: jax.Array  # [] int32, steps done
  momentum: Any  # tree of the matrices, float32


def is_matrix(axes: PartitionSpec) -> bool:
  """Whether a parameter with these logical axes is one for Muon."""
  return _layer_axes(axes) in _MATRICES


def scale_by_muon(
  axes: list[PartitionSpec],
  beta: float,
  *,
  chunk_size: int = 1,
  dtype: jnp.dtype = jnp.float32,
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
    chunk_size: K, how many hidden states stand side by side in an axis whose
      name says so.
    dtype: of the iterations, and of the matrices while they move; the model's.

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
    updates = _orthogonal_updates(leaves, axes, chunk_size, dtype)
    return tree.unflatten(updates), MuonState(count, momentum)

  return optax.GradientTransformation(init, update)


def orthogonalise(x: jax.Array) -> jax.Array:
  """Moves the singular values of each matrix of x, [N, n, m], near 1.

  In the dtype of x, with float32 in full precision; norms are float32.
  """
  product = lambda a, b: jnp.matmul(a, b, precision="highest")
  is_tall = x.shape[1] > x.shape[2]
  x = x.mT if is_tall else x
  squares = jnp.square(x.astype(jnp.float32))
  norms = jnp.sqrt(squares.sum((1, 2), keepdims=True))
  x = (x / (norms + _EPSILON)).astype(x.dtype)
  for _ in range(_NUM_ITERATIONS):
    gram = product(x, x.mT)
    x = _A * x + product(_B * gram + _C * product(gram, gram), x)
  return x.mT if is_tall else x


def _orthogonal_updates(
  arrays: list[jax.Array],
  axes: list[PartitionSpec],
  chunk_size: int,
  dtype: jnp.dtype,
) -> list[jax.Array]:
  """Orthogonalises arrays in stacks of equally shaped matrices."""
  groups = collections.defaultdict(list)
  for i, (x, names) in enumerate(zip(arrays, axes, strict=True)):
    # What puts numbers into another order is undone by its transpose.
    orient = functools.partial(_oriented, axes=names, chunk_size=chunk_size)
    matrices, restore = jax.vjp(orient, x)
    groups[matrices.shape[1:]].append((i, matrices.astype(dtype), restore))
  updates = list(arrays)
  for shape, members in groups.items():
    indices, stacks, restores = zip(*members, strict=True)
    stack = _shared_out(jnp.concatenate(stacks))
    stack = _UPDATE_RMS * math.sqrt(max(shape)) * stack.astype(jnp.float32)
    ends = itertools.accumulate(map(len, stacks))
    parts = jnp.split(stack, list(ends)[:-1])
    for i, restore, part in zip(indices, restores, parts, strict=True):
      (updates[i],) = restore(part)
  return updates


def _shared_out(stack: jax.Array) -> jax.Array:
  """Orthogonalises [N, n, m], each matrix whole on one device of the mesh.

  Devices that have parts of the same matrices exchange them for whole ones of
  fewer; devices that have copies of those take turns, as many as it needs to
  finish soonest, and hand the results on.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not set(MESH_AXES) <= set(mesh.axis_names):
    return orthogonalise(stack)
  size = lambda *axes: math.prod(mesh.shape[axis] for axis in axes)
  num_parts, num_copies = size(_EMBED, _OTHER), size(*_COPIES)
  num_takers = _num_takers(-(-len(stack) // num_parts), num_copies)
  padding = [
    -length % unit
    for length, unit in zip(
      stack.shape,
      (num_parts * num_takers, size(_EMBED), size(_OTHER)),
      strict=True,
    )
  ]
  groups = [
    list(range(first, first + num_takers))
    for first in range(0, num_copies, num_takers)
  ]

  def on_device(x: jax.Array) -> jax.Array:
    turn = jax.lax.axis_index(_COPIES) % num_takers
    x = x.reshape(num_takers, -1, *x.shape[1:])[turn]
    x = _exchange(_exchange(x, _EMBED, 0, 1), _OTHER, 0, 2)
    x = orthogonalise(x)
    x = _exchange(_exchange(x, _OTHER, 2, 0), _EMBED, 1, 0)
    if num_takers == 1:
      return x
    return jax.lax.all_gather(x, _COPIES, axis_index_groups=groups, tiled=True)

  place = PartitionSpec(None, _EMBED, _OTHER)
  x = jnp.pad(stack, [(0, length) for length in padding])
  x = jax.shard_map(
    on_device, in_specs=place, out_specs=place, check_vma=False
  )(x)
  return x[tuple(slice(length) for length in stack.shape)]


def _exchange(x: jax.Array, axis: str, split: int, joined: int) -> jax.Array:
  """Splits one axis of x over the devices of a mesh axis, and joins another."""
  # Without the barrier XLA gives the parts on a CPU layouts that differ, and
  # refuses its own program (jax 0.10.2).
  x = jax.lax.optimization_barrier(x)
  return jax.lax.all_to_all(x, axis, split, joined, tiled=True)


def _num_takers(num_matrices: int, num_copies: int) -> int:
  """The fewest of the copies that finish as soon as all of them would."""
  soonest = -(-num_matrices // num_copies)
  return next(
    num
    for num in range(1, num_copies + 1)
    if num_copies % num == 0 and -(-num_matrices // num) == soonest
  )


def _layer_axes(axes: PartitionSpec) -> tuple[str | None, ...]:
  names = tuple(axes)
  return names[1:] if names[:1] == ("layers",) else names


def _oriented(x: jax.Array, axes: PartitionSpec, chunk_size: int) -> jax.Array:
  """A kernel as matrices [N, embed, other], its numbers in another order.

  One that writes hidden states is turned: the orthogonalised transpose is the
  transpose of what is orthogonalised, and all are then split in the same way.
  """
  names = _layer_axes(axes)
  num_layers = math.prod(x.shape[: x.ndim - len(names)])
  if names[-1] == "embed":
    x = x.reshape(num_layers, -1, x.shape[-1]).mT
  else:
    x = x.reshape(num_layers, x.shape[-len(names)], -1)
  if "chunk_embed" in names:
    return x.reshape(num_layers * chunk_size, -1, x.shape[-1])
  if "chunk_mlp" in names:
    x = x.reshape(*x.shape[:2], chunk_size, -1).swapaxes(1, 2)
    return x.reshape(num_layers * chunk_size, *x.shape[2:])
  return x
