"""Where the parameters of each layer stand in a published checkpoint."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

Path = tuple[str, ...]  # of a parameter or a module in our tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """One parameter of ours and the tensor, or tensors, it is made of."""

  path: tuple[str, ...]  # of the parameter in our tree
  source: str  # name of the tensor; `{}` stands for the layer, if stacked
  layout: str = "plain"  # plain | linear | table
  num_input_axes: int = 1  # linear: how many axes of ours are inputs
  half: int | None = None  # linear: which half of the tensor's inputs
  num_layers: int | None = None  # stacked along our first axis, or None

  def __post_init__(self):
    if self.layout not in ("plain", "linear", "table"):
      raise ValueError(f"{self.path} has the unknown layout {self.layout!r}.")

  @property
  def sources(self) -> list[str]:
    """The tensors' names, one a layer if stacked."""
    if self.num_layers is None:
      return [self.source]
    return [self.source.format(i) for i in range(self.num_layers)]

  def source_shape(
    self, shape: Sequence[int], vocabulary_size: int
  ) -> tuple[int, ...]:
    """Shape of each tensor, from that of our parameter."""
    shape = tuple(shape[self.num_layers is not None :])
    if self.layout == "table":
      return (vocabulary_size, *shape[1:])
    if self.layout == "plain":
      return shape
    num_inputs = math.prod(shape[: self.num_input_axes])
    num_outputs = math.prod(shape[self.num_input_axes :])
    return (num_outputs, num_inputs * (1 if self.half is None else 2))

  def from_source(self, tensor: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """One tensor, not of a table, to one layer of our parameter."""
    if self.half is not None:
      tensor = np.split(tensor, 2, axis=1)[self.half]
    if self.layout == "linear":  # torch keeps [out, in]
      tensor = tensor.T
    return tensor.reshape(shape[self.num_layers is not None :])

  def to_source(self, array: np.ndarray, vocabulary_size: int) -> np.ndarray:
    """One layer of our parameter to the tensor, or to its half."""
    if self.layout == "table":
      return array[:vocabulary_size]
    if self.layout == "plain":
      return array
    num_inputs = math.prod(array.shape[: self.num_input_axes])
    return array.reshape(num_inputs, -1).T


def linear_entries(path: Path, source: str) -> list[Entry]:
  """A Linear with bias."""
  return [
    Entry(path=(*path, "kernel"), source=f"{source}.weight", layout="linear"),
    Entry(path=(*path, "bias"), source=f"{source}.bias"),
  ]


def swiglu_entries(path: Path, source: str) -> list[Entry]:
  """A SwiGLU without biases."""
  return [
    Entry(
      path=(*path, name, "kernel"),
      source=f"{source}.{name}_proj.weight",
      layout="linear",
    )
    for name in ("gate", "up", "down")
  ]


def layer_norm_entries(path: Path, source: str) -> list[Entry]:
  """A LayerNorm with scale and bias."""
  return [
    scale_entry(path, f"{source}.weight"),
    Entry(path=(*path, "norm", "bias"), source=f"{source}.bias"),
  ]


def scale_entry(path: Path, source: str) -> Entry:
  """The scale of a norm."""
  return Entry(path=(*path, "norm", "scale"), source=source)


def table_entry(path: Path, source: str) -> Entry:
  """An embedding, whose padded rows are ours alone."""
  return Entry(path=path, source=source, layout="table")
