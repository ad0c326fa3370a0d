"""Our parameter tree, as promises to read the tensors of a checkpoint."""

from collections.abc import Callable
from typing import Any

import numpy as np

from calm_jax.config import ModelConfig
from calm_jax.families import build_model, family_of, param_shapes
from calm_jax.interop.lazy_arrays import LazyArray
from calm_jax.interop.names import aliases, entries
from calm_jax.interop.safetensors_file import DTYPES
from calm_jax.interop.weights import Weights
from calm_jax.layers.published import Entry

_ROWS = 4096  # of a table that are read or compared at once


class ParamReader:
  """The parameters of one model in one checkpoint; all checked at once.

  Attributes:
    weights: the tensors.
    config: of the model.
    names: the tensors that belong to it, under each of their names.
    dtypes: of these tensors, by name.
    nbytes: of our parameters together.
    on_read: told the bytes of each piece that was read.
  """

  def __init__(
    self,
    weights: Weights,
    config: ModelConfig,
    prefix: str = "",
  ):
    """Finds every tensor.

    Args:
      weights: the tensors.
      config: of the model, resolved.
      prefix: of the tensors' names.

    Raises:
      ValueError: if a tensor is missing, of another shape, or stored twice
        with two contents.
    """
    self.weights = weights
    self.config = config
    self.names: set[str] = set()
    self.on_read: Callable[[int], None] = lambda num_bytes: None
    self._name_of: dict[str, str] = {}  # under which each is really there
    self._prefix = prefix
    self._entries = entries(config)
    self._shapes = param_shapes(build_model(config))
    self.nbytes = 0
    for entry in self._entries:
      leaf = _at(self._shapes, entry.path)
      self.nbytes += leaf.size * leaf.dtype.itemsize
      expected = entry.source_shape(leaf.shape, config.vocabulary.size)
      for name in entry.sources:
        self._find(name, expected)
    self.dtypes = {name: weights.dtype(name) for name in self._name_of.values()}

  def tree(
    self, leaf_fn: Callable[[LazyArray], Any] = lambda lazy: lazy
  ) -> Any:
    """Nested dict of what `leaf_fn` makes of each parameter, one by one."""
    tree: dict[str, Any] = {}
    for entry in self._entries:
      parent = tree
      for part in entry.path[:-1]:
        parent = parent.setdefault(part, {})
      parent[entry.path[-1]] = leaf_fn(self._lazy(entry))
    return tree

  def _lazy(self, entry: Entry) -> LazyArray:
    shape = _at(self._shapes, entry.path).shape

    def read(start: int, stop: int) -> np.ndarray:
      array = np.zeros((stop - start, *shape[1:]), np.float32)
      if entry.num_layers is not None:
        for i, layer in enumerate(range(start, stop)):
          tensor = self._read(entry.sources[layer])
          array[i] = entry.from_source(tensor, shape)
      elif entry.layout == "table":
        # Rows of the padding, which the tensor does not have, stay 0.
        rows = self._read(entry.source, slice(start, stop))
        array[: len(rows)] = rows
      else:
        array = entry.from_source(self._read(entry.source), shape)[start:stop]
      self.on_read(array.nbytes)
      return array

    can_slice = entry.num_layers is not None or entry.layout == "table"
    return LazyArray(shape, read, can_slice=can_slice)

  def _read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
    return self.weights.read(self._name_of[name], rows)

  def _find(self, name: str, expected: tuple[int, ...]) -> None:
    if name in self._name_of:  # the other half of a tensor
      return
    directory = self.weights.directory
    names = aliases(self._prefix + name)
    self.names.update(names)
    present = [each for each in names if each in self.weights]
    if not present:
      hint = family_of(self.config).published.missing.get(name, "")
      hint = hint and f"; {hint}"
      raise ValueError(
        f"tensor {' or '.join(names)} is missing in {directory}; it was"
        f" expected with shape {expected}{hint}."
      )
    for each in present:
      if (dtype := self.weights.dtype(each)) not in DTYPES:
        raise ValueError(
          f"tensor {each} in {directory} has dtype {dtype}, which cannot be"
          f" read; {', '.join(DTYPES)} can: give weights in one of these."
        )
      found = self.weights.shape(each)
      if found != expected:
        raise ValueError(
          f"tensor {each} in {directory} has shape {found}, and {expected} was"
          " expected from config.json."
        )
    if len(present) == 2:
      self._check_equal(*present)
    self._name_of[name] = present[0]

  def _check_equal(self, first: str, second: str) -> None:
    num_rows = self.weights.shape(first)[0]
    for start in range(0, num_rows, _ROWS):
      rows = slice(start, start + _ROWS)
      pair = (self.weights.read(name, rows) for name in (first, second))
      if not np.array_equal(*pair):
        raise ValueError(
          f"tensors {first} and {second} in {self.weights.directory} are one"
          " parameter stored twice, and differ; remove the wrong one."
        )


def _at(tree: Any, path: tuple[str, ...]) -> Any:
  for part in path:
    tree = tree[part]
  return tree
