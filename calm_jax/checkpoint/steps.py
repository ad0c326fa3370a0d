"""Reads the saved steps of a run: parameters, optimizer state and position.

Each item is read by itself and without a word between processes, so that one
that cannot be read is an error of its own and never a process that waits. What
all have read, all check together.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import path as ocp_path

from calm_jax.checkpoint import orbax_noise
from calm_jax.checkpoint.checksum import checksums

PARAMS, OPTIMIZER, POSITION = "params", "optimizer", "position"

_NAME = re.compile("0|[1-9][0-9]*")


class DamagedStepError(ValueError):
  """A saved step that cannot be read."""


def list_steps(directory: epath.PathLike) -> list[int]:
  """The steps that were saved to the end, in order; [] if there is none."""
  return sorted(step.step for step in StepNames().find_all(directory))


class StepNames(ocp_path.step.NameFormat):
  """Step N is the directory N, in decimal digits, and no other is a step.

  Orbax takes old_900, 0900 and digits of any script for step 900 where it
  lists, and does not find it there. Whoever puts a directory of another name
  beside the steps keeps it: it is neither read nor counted nor removed.
  """

  def build_name(self, step: int) -> str:
    return str(step)

  def find_all(
    self, base_path: epath.PathLike
  ) -> Iterator[ocp_path.step.Metadata]:
    directory = epath.Path(base_path)
    for path in directory.iterdir() if directory.is_dir() else ():
      if (
        _NAME.fullmatch(path.name)
        and path.is_dir()
        and ocp_path.step.is_path_finalized(path)
      ):
        yield ocp_path.step.Metadata(step=int(path.name), path=path)

  def find_step(
    self, base_path: epath.PathLike, step: int
  ) -> ocp_path.step.Metadata:
    for found in self.find_all(base_path):
      if found.step == step:
        return found
    raise ValueError(f"step {step} is not in {base_path}.")


def read_arrays(
  directory: epath.Path, step: int, item: str, shapes: Any
) -> Any:
  """Reads parameters or optimizer state.

  Args:
    directory: that holds the steps.
    step: to read.
    item: "params" or "optimizer".
    shapes: tree of ShapeDtypeStruct with shardings; where to put the arrays.

  Returns:
    The tree of arrays.

  Raises:
    FileNotFoundError: if the step was removed.
    DamagedStepError: if it is there and cannot be read.
    MemoryError, RuntimeError: if memory does not suffice.
  """
  try:
    return read_tree(directory / str(step) / item, shapes)
  except Exception as error:  # Orbax raises whatever its parsers raise
    if _is_about_memory(error):
      raise
    raise _explain(directory, step, item, error) from error


def check_arrays(
  directory: epath.Path,
  step: int,
  item: str,
  arrays: Any,
  position: dict[str, Any],
) -> None:
  """Compares arrays with the checksums that their step was saved with.

  Args:
    directory: that holds the steps.
    step: that was read.
    item: "params" or "optimizer".
    arrays: from `read_arrays`; all processes call this together.
    position: of the step; without checksums, nothing is compared.

  Raises:
    DamagedStepError: if an array is not what was saved, on all processes.
  """
  saved = position.get("sums", {}).get(item)
  if saved is None:
    return
  found = checksums(arrays)
  wrong = sorted(name for name in found if found[name] != saved.get(name))
  if wrong:
    names = ", ".join(wrong[:3]) + (", …" if wrong[3:] else "")
    raise DamagedStepError(
      f"step {step} in {directory} is damaged: its {item} {names} do not have"
      " the checksum stored with them."
    )


def read_tree(path: epath.Path, shapes: Any) -> Any:
  """Reads one tree of arrays that Orbax wrote; see `read_arrays`.

  Raises:
    Exception: of any kind, if it is damaged.
  """
  orbax_noise.silence()
  handler = ocp.StandardCheckpointHandler()
  try:
    return handler.restore(path, args=ocp.args.StandardRestore(shapes))
  finally:
    handler.close()


def read_position(directory: epath.Path, step: int) -> dict[str, Any]:
  """Reads what a step knows of itself: hashes, and where the run stood.

  Args:
    directory: that holds the steps.
    step: to read.

  Returns:
    What `sealed` was given when the step was saved.

  Raises:
    FileNotFoundError: if the step was removed.
    DamagedStepError: if it is there and cannot be read.
  """
  orbax_noise.silence()
  handler = ocp.JsonCheckpointHandler()
  try:
    position = handler.restore(directory / str(step) / POSITION)
    content = position["content"]
    if position["sha256"] != _digest(content) or content["step"] != step:
      raise ValueError("its content does not have the hash stored with it")
    return content
  except Exception as error:
    if _is_about_memory(error):
      raise
    raise _explain(directory, step, POSITION, error) from error
  finally:
    handler.close()


def sealed(content: dict[str, Any]) -> dict[str, Any]:
  """A position with its hash."""
  return {"content": content, "sha256": _digest(content)}


def set_aside(directory: epath.Path, steps: list[int]) -> None:
  """Moves steps to `damaged/` beside the directory that holds them."""
  shelf = directory.parent / "damaged"
  shelf.mkdir(exist_ok=True)
  # Without a file there is no directory in a bucket to move them to.
  (shelf / "README").write_text("Steps that could not be read.\n")
  for step in steps:
    target = shelf / str(step)
    if target.exists():
      target.rmtree()
    (directory / str(step)).rename(target)


def _digest(content: Any) -> str:
  return hashlib.sha256(
    json.dumps(content, sort_keys=True).encode()
  ).hexdigest()


def _is_about_memory(error: Exception) -> bool:
  return isinstance(error, MemoryError) or (
    isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
  )


def _explain(
  directory: epath.Path, step: int, item: str, error: Exception
) -> Exception:
  if not (directory / str(step)).exists():
    return FileNotFoundError(
      f"step {step} is not in {directory}; it was removed, or never saved."
    )
  return DamagedStepError(
    f"step {step} in {directory} is damaged: its {item} cannot be read"
    f" ({orbax_noise.reason(error)})."
  )
