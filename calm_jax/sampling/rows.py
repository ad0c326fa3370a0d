"""Rows of text shared out over the devices of a mesh.

A row is scored and continued by itself. So devices that hold copies of the
parameters, those along `data`, take rows of their own and exchange nothing.
Other axes split the parameters of a model that is too large for one device, and
the work on a row.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ROWS = PartitionSpec("data")
_WHOLE = PartitionSpec()


def num_parts(mesh: Mesh | None) -> int:
  """Into how many parts the rows of a batch are split."""
  return 1 if mesh is None else mesh.shape["data"]


def check_processes(num_rows: int, num_processes: int) -> None:
  """Raises ValueError if some processes would have no rows."""
  if 0 < num_rows < num_processes:
    raise ValueError(
      f"{num_processes} processes share {num_rows} rows, so some have none;"
      f" score at least {num_processes} rows, or take fewer processes."
    )


def place(batch: Any, mesh: Mesh | None) -> Any:
  """Puts rows where they are worked on, with padding behind them.

  Args:
    batch: tree of NumPy arrays [B, …], the same in all processes.
    mesh: None: nothing is done.

  Returns:
    The tree of arrays [B', …], B' a multiple of the parts; what is added is
    zero, and its mask False.
  """
  if mesh is None:
    return batch

  def put(x: np.ndarray) -> jax.Array:
    x = np.asarray(x)
    missing = -len(x) % num_parts(mesh)
    x = np.pad(x, ((0, missing), *[(0, 0)] * (x.ndim - 1)))
    return jax.make_array_from_callback(
      x.shape, NamedSharding(mesh, ROWS), lambda index: x[index]
    )

  return jax.tree.map(put, batch)


def over_rows(
  function: Callable[..., Any],
  mesh: Mesh | None,
  *,
  takes: Sequence[Any] | None = None,
  gives: Any = ROWS,
) -> Callable[..., Any]:
  """Calls a function of parameters and rows on each device for its own rows.

  What is the same for all rows goes in with the parameters, not in a closure.

  Where nothing splits the parameters a device computes what it would compute
  alone, bit for bit. Else the compiler shares out rows and products.

  Args:
    function: takes parameters and trees of arrays [B, …], gives such a tree.
    mesh: None: the function itself.
    takes: for each tree a prefix of it with the PartitionSpecs of its arrays,
      where rows are not the first axis of all.
    gives: the same of the result.

  Returns:
    The same function of all rows, for use inside compiled ones.
  """
  if mesh is None or mesh.size > num_parts(mesh):
    return function

  def call(params: Any, *rows: Any) -> Any:
    return jax.shard_map(
      function,
      mesh=mesh,
      in_specs=(_WHOLE, *(takes or [ROWS] * len(rows))),
      out_specs=gives,
      check_vma=False,
    )(params, *rows)

  return call


def on(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
  """The context in which functions `over_rows` are compiled and called."""
  return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def split(tree: Any, mesh: Mesh | None) -> Any:
  """Keeps rows, inside compiled functions, where `place` puts them."""
  if mesh is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, ROWS))


def everywhere(tree: Any, mesh: Mesh | None) -> Any:
  """Gives all of a compiled function's result to every process."""
  if mesh is None:
    return tree
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, _WHOLE))
