"""Where every array lives: one table from logical axes to mesh axes.

The mesh has four named axes. `data` holds copies of the parameters, `fsdp`
splits them and the rows of a batch, `tensor` splits heads, feed-forward columns
and the vocabulary, `sequence` splits the chunks of a row.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from calm_jax.config import CHOSEN, ExperimentConfig, MeshConfig, ModelConfig
from calm_jax.data.batch import Batch, Targets

MESH_AXES = ("data", "fsdp", "tensor", "sequence")
ROW_AXES = ("data", "fsdp")  # split the rows of a batch

# The axis names that layers give their parameters, and the mesh axis that
# splits each.
PARAMETER_AXES: dict[str, str | None] = {
  "vocab": "tensor",
  "embed": "fsdp",
  "chunk_embed": "fsdp",  # K hidden states side by side
  "mlp": "tensor",
  "chunk_mlp": "tensor",  # the same
  "heads": "tensor",
  "kv_heads": "tensor",
  "head_dim": None,
  "layers": None,
  "latent": None,
  "noise": None,
  "norm": None,
}


def make_mesh(
  config: MeshConfig, devices: list[jax.Device] | None = None
) -> Mesh:
  """Arranges the devices, those of a slice by its network; `data` spans slices.

  Args:
    config: sizes of the axes. Of those left open the first one takes all
      devices that are left, and the others are 1.
    devices: all of them by default.

  Returns:
    A mesh with the axes of `MESH_AXES`.

  Raises:
    ValueError: if the sizes do not multiply to the number of devices, or `data`
      is not a multiple of the number of TPU slices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = _mesh_sizes(config, len(devices))
  # Explicit axes, JAX's default, reject the constraints inside the layers.
  types = (AxisType.Auto,) * len(MESH_AXES)
  return Mesh(_arrange(sizes, devices), MESH_AXES, axis_types=types)


def count_slices(devices: Sequence[jax.Device]) -> int:
  """Of TPUs, between which the network is slow; 1 for other devices."""
  if devices[0].platform != "tpu":
    return 1
  return len({getattr(it, "slice_index", 0) for it in devices})


def check_fit(config: ExperimentConfig, mesh: Mesh) -> None:
  """Raises ValueError if the batch or the model does not fit the mesh."""
  num_parts = mesh.shape["data"] * mesh.shape["fsdp"]
  num_microbatches = max(config.num_microbatches, 1)
  unit = num_parts * num_microbatches
  _check_multiple(
    "data.batch_size",
    config.data.batch_size,
    unit,
    f"data {mesh.shape['data']} × fsdp {mesh.shape['fsdp']} ×"
    f" num_microbatches {num_microbatches}",
  )
  _check_multiple(
    "the number of chunks in a row",
    config.num_chunks,
    mesh.shape["sequence"],
    f"mesh.sequence {mesh.shape['sequence']}",
  )
  check_model_fits(config.model, mesh)


def check_model_fits(model: ModelConfig, mesh: Mesh) -> None:
  """Raises ValueError if the model cannot be split over the mesh."""
  num_heads, tensor = getattr(model, "num_heads", 0), mesh.shape["tensor"]
  if num_heads % tensor:
    raise ValueError(
      f"model.num_heads {num_heads} is not a multiple of mesh.tensor {tensor};"
      f" choose mesh.tensor from {', '.join(map(str, divisors(num_heads)))}."
    )


def divisors(number: int) -> list[int]:
  """All of them, the least first."""
  return [it for it in range(1, number + 1) if number % it == 0]


class Placement(NamedTuple):
  """How parameters are split, and where that is not what the table says."""

  shardings: Any  # tree of NamedSharding
  notes: list[str]  # one line for every array with an axis that does not divide


def place_params(mesh: Mesh, shapes: Any, logical_axes: Any) -> Placement:
  """Splits parameters by the table.

  Where an axis does not divide by its mesh axis, that mesh axis splits the
  array's largest other axis that divides, or, failing that, shares an axis
  that another mesh axis splits already; if there is none, the array is kept
  whole along this mesh axis.

  Args:
    mesh: from `make_mesh`.
    shapes: tree of arrays or of their shapes and dtypes.
    logical_axes: the same tree with a PartitionSpec of names for each array.

  Returns:
    The tree of shardings, and the notes.
  """
  notes = []

  def place(path: Any, leaf: Any, names: PartitionSpec) -> NamedSharding:
    spec, problems = _split(mesh, leaf.shape, tuple(names))
    where = jax.tree_util.keystr(path, simple=True, separator=".")
    notes.extend(f"{where}: {problem}" for problem in problems)
    return NamedSharding(mesh, spec)

  shardings = jax.tree_util.tree_map_with_path(place, shapes, logical_axes)
  return Placement(shardings, notes)


def place_moments(mesh: Mesh, shapes: Any, params: Any) -> Any:
  """Puts what an optimizer keeps of a parameter where that parameter is.

  A moment is known by its path, which ends in the path of its parameter. This
  sees it in a state of part of the parameters, too, whose tree is not theirs.

  Args:
    mesh: from `make_mesh`.
    shapes: the optimizer's state, or its shapes and dtypes.
    params: tree of shardings, from `place_params`.

  Returns:
    The tree of `shapes` with a sharding for each array: its parameter's, or, of
    an array that belongs to none, such as a count of steps, whole.
  """
  places = dict(jax.tree_util.tree_leaves_with_path(params))
  whole = replicated(mesh)

  def place(path: Any, _: Any) -> NamedSharding:
    # The longest first: another parameter's path may end its path.
    ends = (path[start:] for start in range(len(path)))
    return next((places[end] for end in ends if end in places), whole)

  return jax.tree_util.tree_map_with_path(place, shapes)


def replicated(mesh: Mesh, tree: Any = None) -> Any:
  """The sharding that keeps an array whole on every device, for a tree."""
  whole = NamedSharding(mesh, PartitionSpec())
  return whole if tree is None else jax.tree.map(lambda _: whole, tree)


def global_copy(mesh: Mesh, tree: Any) -> Any:
  """Puts arrays that every process has whole onto every device of the mesh."""
  whole = replicated(mesh)

  def put(x: Any) -> jax.Array:
    local = np.asarray(x)
    return jax.make_array_from_callback(
      local.shape, whole, lambda index: local[index]
    )

  return jax.tree.map(put, tree)


def row_sharding(mesh: Mesh) -> NamedSharding:
  """That of arrays [B]."""
  return NamedSharding(mesh, PartitionSpec(ROW_AXES))


def chunk_sharding(mesh: Mesh) -> NamedSharding:
  """That of arrays [B, L] and [B, L, K]."""
  return NamedSharding(mesh, PartitionSpec(ROW_AXES, "sequence"))


def batch_shapes(config: ExperimentConfig, mesh: Mesh) -> Batch:
  """Shapes, dtypes and shardings of a global batch, for a compiler to read."""
  rows, chunks = config.data.batch_size, config.num_chunks
  split = lambda shape, dtype, place: jax.ShapeDtypeStruct(
    shape, dtype, sharding=place
  )
  shape = (rows, chunks, config.model.chunk_size)
  tokens = split(shape, np.int32, chunk_sharding(mesh))
  mask = split(shape, np.bool_, chunk_sharding(mesh))
  return Batch(
    tokens=tokens,
    token_mask=mask,
    segment_ids=split((rows, chunks), np.int32, chunk_sharding(mesh)),
    row_ids=split((rows,), np.uint32, row_sharding(mesh)),
    targets=None if config.teacher is None else Targets(tokens, mask),
  )


class HostSlice(NamedTuple):
  """The part of the global batch that this process reads."""

  index: int
  count: int


def host_slice(mesh: Mesh, process_index: int | None = None) -> HostSlice:
  """Which rows a process needs, as a part of equally many contiguous ones.

  Processes whose devices hold the same rows (a `tensor` axis that spans
  several) read the same part.

  Args:
    mesh: of all processes.
    process_index: this process by default.

  Returns:
    The number of the part and how many parts there are.

  Raises:
    ValueError: if two processes share some of their rows but not all.
  """
  if process_index is None:
    process_index = jax.process_index()
  num_parts = mesh.shape["data"] * mesh.shape["fsdp"]
  held: dict[int, set[int]] = {}
  where = row_sharding(mesh).devices_indices_map((num_parts,))
  for device, (rows,) in where.items():
    held.setdefault(device.process_index, set()).add(rows.start or 0)
  parts = sorted({tuple(sorted(rows)) for rows in held.values()})
  if len(list(itertools.chain(*parts))) != num_parts:
    raise ValueError(
      f"with mesh {dict(mesh.shape)} over {len(held)} processes, some share a"
      " part of their rows; make mesh.tensor × mesh.sequence a multiple or a"
      " divisor of the devices of one process."
    )
  return HostSlice(parts.index(tuple(sorted(held[process_index]))), len(parts))


def global_batch(mesh: Mesh, batch: Any, num_parts: int) -> Any:
  """Puts the rows read by each process together into sharded arrays.

  Args:
    mesh: of all processes.
    batch: this process's rows, a tree of NumPy arrays [B / num_parts, …].
    num_parts: from `host_slice`.

  Returns:
    The tree of global arrays, [B, …].
  """

  def put(local: np.ndarray) -> jax.Array:
    sharding = row_sharding(mesh) if local.ndim == 1 else chunk_sharding(mesh)
    shape = (local.shape[0] * num_parts, *local.shape[1:])
    return jax.make_array_from_process_local_data(sharding, local, shape)

  return jax.tree.map(put, batch)


def split_rows(num_parts: int, x: jax.Array) -> jax.Array:
  """[B, …] → [parts, B / parts, …], every part having rows of every device."""
  return x.reshape(-1, num_parts, *x.shape[1:]).swapaxes(0, 1)


def joined_rows(x: jax.Array) -> jax.Array:
  """What `split_rows` split: [parts, B / parts, …] → [B, …]."""
  return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _mesh_sizes(config: MeshConfig, num_devices: int) -> tuple[int, ...]:
  wanted = tuple(getattr(config, name) for name in MESH_AXES)
  given = math.prod(size for size in wanted if size != CHOSEN)
  sizes = [1 if size == CHOSEN else size for size in wanted]
  if CHOSEN in wanted:
    sizes[wanted.index(CHOSEN)] = num_devices // given
  if math.prod(sizes) == num_devices:
    return tuple(sizes)
  asked = " × ".join(
    f"{name} {size}"
    for name, size in zip(MESH_AXES, wanted, strict=True)
    if size != CHOSEN
  )
  raise ValueError(
    f"mesh {asked} does not multiply to the {num_devices} devices; the nearest"
    f" meshes that do are {_nearest_meshes(sizes, num_devices)}."
  )


def _arrange(sizes: tuple[int, ...], devices: list[jax.Device]) -> np.ndarray:
  """Does what `jax.make_mesh` refuses.

  That takes neither several TPU slices nor several hosts with GPUs, and on most
  TPUs no mesh axis that is a part of an axis of the torus: on v5p:4x4x4 neither
  fsdp 32 nor tensor 2.
  """
  num_slices = count_slices(devices)
  if num_slices == 1:
    return mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  _check_multiple("mesh.data", sizes[0], num_slices, "the number of slices")
  return mesh_utils.create_hybrid_device_mesh(
    (sizes[0] // num_slices, *sizes[1:]),
    (num_slices, *(1 for _ in sizes[1:])),
    devices,
    allow_split_physical_axes=True,
  )


def _nearest_meshes(sizes: tuple[int, ...], num_devices: int) -> str:
  """The two meshes that change the fewest sizes, and these the least."""
  candidates = (
    (num_devices // math.prod(rest), *rest)
    for rest in itertools.product(divisors(num_devices), repeat=len(sizes) - 1)
    if num_devices % math.prod(rest) == 0
  )

  def distance(candidate: tuple[int, ...]) -> tuple[int, float, Any]:
    pairs = list(zip(candidate, sizes, strict=True))
    stretch = sum(abs(math.log(a / max(b, 1))) for a, b in pairs)
    return sum(a != b for a, b in pairs), stretch, candidate[::-1]

  best = sorted(candidates, key=distance)[:2]
  return " or ".join(
    " × ".join(
      f"{name} {size}" for name, size in zip(MESH_AXES, mesh, strict=True)
    )
    for mesh in best
  )


def _check_multiple(name: str, value: int, unit: int, what: str) -> None:
  if value % unit:
    low, high = value - value % unit, value - value % unit + unit
    nearest = f"{low} and {high}" if low else f"{high}"
    raise ValueError(
      f"{name} {value} is not a multiple of {unit} ({what}); nearest:"
      f" {nearest}."
    )


def _split(
  mesh: Mesh, shape: tuple[int, ...], names: tuple[str | None, ...]
) -> tuple[PartitionSpec, list[str]]:
  """Assigns mesh axes to the axes of one array."""
  splits: list[list[str]] = [[] for _ in shape]
  names = names + (None,) * (len(shape) - len(names))
  homeless = []
  for i, name in enumerate(names):
    axis = None if name is None else PARAMETER_AXES[name]
    if axis is None or mesh.shape[axis] == 1 or [axis] in splits:
      continue
    if shape[i] % mesh.shape[axis]:
      homeless.append((axis, i))
    else:
      splits[i].append(axis)
  problems = []
  for axis, i in homeless:
    if any(axis in split for split in splits):
      continue  # another axis of the array has taken it by the table
    place = _other_place(mesh, shape, names, splits, axis)
    problem = (
      f"{names[i]} {shape[i]} does not divide by {axis} {mesh.shape[axis]};"
    )
    if place is None:
      problems.append(f"{problem} kept whole")
    else:
      splits[place].append(axis)
      problems.append(f"{problem} {names[place]} {shape[place]} does")
  spec = [tuple(s) if len(s) > 1 else (s[0] if s else None) for s in splits]
  return PartitionSpec(*spec), problems


def _other_place(
  mesh: Mesh,
  shape: tuple[int, ...],
  names: tuple[str | None, ...],
  splits: list[list[str]],
  axis: str,
) -> int | None:
  """The axis of an array that a mesh axis splits for want of its own."""

  def parts(i: int) -> int:
    return math.prod(mesh.shape[name] for name in (*splits[i], axis))

  # A scan runs over whole layers: splitting them would gather each in turn.
  places = [
    i
    for i, size in enumerate(shape)
    if names[i] != "layers" and size % parts(i) == 0
  ]
  return max(
    places, key=lambda i: (not splits[i], shape[i] // parts(i)), default=None
  )
