"""Parameters that are read when they are written, one at a time.

A tree of them is saved in the memory of one array, where Orbax by itself would
hold all of it, twice.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from calm_jax.checkpoint import orbax_noise
from calm_jax.checkpoint import steps as steps_lib

_BLOCK_SIZE = 64 * 2**20  # bytes of an array that are read and written at once
_SMALL_SIZE = 2**20  # bytes


class LazyArray:
  """A float32 array that does not exist yet."""

  dtype = np.dtype(np.float32)

  def __init__(
    self,
    shape: tuple[int, ...],
    read: Callable[[int, int], np.ndarray],
    *,
    can_slice: bool,
  ):
    """Describes the array.

    Args:
      shape: of all of it.
      read: makes rows start … stop−1 of the first axis.
      can_slice: whether reading some rows costs less than reading all.
    """
    self.shape = tuple(shape)
    self.ndim = len(shape)
    self.size = int(np.prod(shape))
    self.nbytes = self.size * self.dtype.itemsize
    self.read = read
    row_size = self.nbytes // max(self.shape[0], 1)
    fitting_rows = max(_BLOCK_SIZE // max(row_size, 1), 1)
    self.num_rows_at_once = (
      min(fitting_rows, self.shape[0]) if can_slice else self.shape[0]
    )

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    del copy  # always made anew
    return self.read(0, self.shape[0]).astype(dtype or self.dtype, copy=False)


def save_step(
  directory: epath.Path, params: Any, hashes: dict[str, str]
) -> None:
  """Saves parameters as step 0 of a run, without an optimizer.

  Args:
    directory: the run's `steps`.
    params: nested dict of LazyArray.
    hashes: of the tokenizer and the autoencoder.

  Raises:
    ValueError, OSError: if a parameter cannot be read or written.
  """
  orbax_noise.silence()
  handler = _LazyHandler()
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler()),
    (LazyArray, handler),
  )
  handlers = {
    steps_lib.PARAMS: ocp.PyTreeCheckpointHandler(
      type_handler_registry=registry
    ),
    steps_lib.POSITION: ocp.JsonCheckpointHandler(),
  }
  items = {
    steps_lib.PARAMS: ocp.args.PyTreeSave(params),
    steps_lib.POSITION: ocp.args.JsonSave(
      steps_lib.sealed({"step": 0, "hashes": hashes})
    ),
  }
  options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
  try:
    with ocp.CheckpointManager(
      directory, item_handlers=handlers, options=options
    ) as manager:
      manager.save(0, args=ocp.args.Composite(**items))
  except Exception as error:  # Orbax raises whatever its writers raise
    raise OSError(
      f"cannot write {directory}: {orbax_noise.reason(error)}."
    ) from error
  if handler.errors:
    raise handler.errors[0]


def read_array(directory: epath.Path, path: tuple[str, ...]) -> np.ndarray:
  """Reads one array of a saved tree and leaves the others on disk.

  Args:
    directory: `params` of a step, or `autoencoder` of a run.
    path: of the array in the tree.

  Returns:
    The array.

  Raises:
    ValueError: if it is missing or damaged.
  """
  restore_args: Any = ocp.RestoreArgs(restore_type=np.ndarray)
  item: Any = 0
  for part in reversed(path):
    restore_args, item = {part: restore_args}, {part: item}
  orbax_noise.silence()
  handler = ocp.PyTreeCheckpointHandler()
  try:
    found = handler.restore(
      directory,
      args=ocp.args.PyTreeRestore(
        item=item, restore_args=restore_args, partial_restore=True
      ),
    )
  except Exception as error:  # Orbax raises whatever its parsers raise
    raise ValueError(
      f"the parameter {'/'.join(path)} in {directory} cannot be read"
      f" ({orbax_noise.reason(error)}); copy it from another copy of the run."
    ) from error
  finally:
    handler.close()
  for part in path:
    found = found[part]
  return found


class _LazyHandler(ocp.type_handlers.NumpyHandler):
  """Reads and writes one large array after the other, some rows at a time."""

  def __init__(self):
    super().__init__(deepcopy_host_arrays=False)
    self.errors: list[Exception] = []
    self._turn = asyncio.Lock()

  async def _open_and_write(
    self, value: LazyArray, tspec: dict[str, Any], ts_context: ts.Context
  ) -> None:
    num_rows, step = value.shape[0], value.num_rows_at_once
    # Blocks that are chunks of the file are written without being read again.
    tspec["metadata"]["chunks"] = [step, *value.shape[1:]]
    # Small arrays go together: each write waits for the disk.
    is_large = value.nbytes > _SMALL_SIZE
    async with self._turn if is_large else contextlib.nullcontext():
      store = await ts.open(
        ts.Spec(tspec), create=True, open=True, context=ts_context
      )
      for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        await store[start:stop].write(self._read(value, start, stop))

  def _read(self, value: LazyArray, start: int, stop: int) -> np.ndarray:
    try:
      return value.read(start, stop)
    except Exception as error:
      # Raised when all is over: Orbax would wrap it in what its threads say.
      self.errors.append(error)
      return np.zeros((stop - start, *value.shape[1:]), value.dtype)
