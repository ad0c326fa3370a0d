"""A run of ours as a directory that the authors' classes load."""

import dataclasses
import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from calm_jax.checkpoint import steps as steps_lib
from calm_jax.checkpoint.run_directory import RunDirectory
from calm_jax.config import ExperimentConfig, ModelConfig
from calm_jax.families import build_model, param_shapes
from calm_jax.interop import published_config
from calm_jax.interop.lazy_arrays import read_array
from calm_jax.interop.names import AUTOENCODER_PREFIX, aliases, entries
from calm_jax.interop.origin import Origin, read_origin
from calm_jax.interop.safetensors_file import write_safetensors
from calm_jax.interop.target_directory import check_free, written_beside
from calm_jax.layers.published import Entry

_AUTOENCODER = "autoencoder"
Progress = Callable[[int, int], None]


def export(
  source: pathlib.Path,
  target: pathlib.Path,
  *,
  step: int | None = None,
  progress: Progress = lambda done, total: None,
) -> None:
  """Writes `config.json` and `model.safetensors`, tensor by tensor.

  Tensors that the authors store twice are written twice. A CALM holds a copy
  of its autoencoder, and the directory `autoencoder` in it is that by itself.
  A run that was converted gives back its tensors bit for bit, in their own
  dtypes, and its `config.json`; one that was trained here is written in
  float32.

  Deviation: the row of a mask id beyond the vocabulary, which training alone
  reads, has no place in these files.

  Args:
    source: a run directory.
    target: absent, or an empty directory.
    step: one that was saved; None: the newest.
    progress: told the bytes done and their total.

  Raises:
    OSError: if a file is missing, or cannot be read or written.
    ValueError: if the run is damaged, or the authors have no such model.
  """
  check_free(target)
  run = RunDirectory(source)
  config = run.read_config()
  step = run.find_step(step)
  origin = read_origin(run.path)
  # Also a check that the authors' classes know such a model.
  values = published_config.from_experiment(
    config, str(target.absolute() / _AUTOENCODER)
  )
  params = run.steps / str(step) / steps_lib.PARAMS
  parts = [_Part(config.model, "", functools.partial(read_array, params))]
  frozen_values: dict[str, Any] = {}
  if config.model.needs_autoencoder:
    read = functools.partial(read_array, run.autoencoder)
    parts.append(_Part(config.autoencoder, AUTOENCODER_PREFIX, read))
    frozen_values = published_config.from_experiment(
      ExperimentConfig(model=config.autoencoder, data=config.data), ""
    )
  if origin is not None:
    values = origin.config
    frozen_values = origin.autoencoder_config or frozen_values
  alone = [dataclasses.replace(part, prefix="") for part in parts[1:]]
  total = sum(part.nbytes for part in parts + alone)
  count = _Counter(total, progress)
  with written_beside(target) as directory:
    _write(directory, values, parts, origin, count)
    if alone:
      (directory / _AUTOENCODER).mkdir()
      _write(directory / _AUTOENCODER, frozen_values, alone, origin, count)


@dataclasses.dataclass
class _Counter:
  """Adds up what was done."""

  total: int
  progress: Progress
  done: int = 0

  def add(self, num_bytes: int) -> None:
    self.done += num_bytes
    self.progress(self.done, self.total)


@dataclasses.dataclass(frozen=True)
class _Part:
  """The parameters of one model, and how to read one of them."""

  config: ModelConfig
  prefix: str
  read: Callable[[tuple[str, ...]], np.ndarray]

  @property
  def nbytes(self) -> int:
    # Parameters that training alone reads have no entry.
    shapes = self.shapes()
    leaves = [_at(shapes, entry.path) for entry in entries(self.config)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

  def shapes(self) -> Any:
    return param_shapes(build_model(self.config))

  def groups(self) -> Iterator[tuple[list[Entry], list[list[str]]]]:
    """The parameters that make up tensors together, and all names of each."""
    for _, group in itertools.groupby(
      entries(self.config), lambda entry: entry.source
    ):
      found = list(group)
      names = [aliases(self.prefix + name) for name in found[0].sources]
      yield found, names


def _write(
  directory: pathlib.Path,
  values: dict[str, Any],
  parts: list[_Part],
  origin: Origin | None,
  count: _Counter,
) -> None:
  (directory / "config.json").write_text(json.dumps(values, indent=2) + "\n")
  plan = {}
  for part in parts:
    shapes = part.shapes()
    for group, names in part.groups():
      shape = group[0].source_shape(
        _at(shapes, group[0].path).shape, part.config.vocabulary.size
      )
      for each in names:
        dtype = _dtype(each, origin)
        plan |= {name: (dtype, shape) for name in each}
  path = directory / "model.safetensors"
  write_safetensors(path, plan, _tensors(parts, count))


def _tensors(
  parts: list[_Part], count: _Counter
) -> Iterator[tuple[str, np.ndarray]]:
  """Every tensor under every name; one parameter at a time is in memory."""
  for part in parts:
    vocabulary_size = part.config.vocabulary.size
    for group, names in part.groups():
      arrays = [part.read(entry.path) for entry in group]
      is_stacked = group[0].num_layers is not None
      for layer, each in enumerate(names):
        tensors = [
          entry.to_source(
            array[layer] if is_stacked else array, vocabulary_size
          )
          for entry, array in zip(group, arrays, strict=True)
        ]
        tensor = tensors[0] if len(group) == 1 else np.hstack(tensors)
        yield from ((name, tensor) for name in each)
      count.add(sum(array.nbytes for array in arrays))


def _dtype(names: list[str], origin: Origin | None) -> str:
  """What the tensor had where it came from."""
  if origin is not None:
    for name in names:
      bare = name.removeprefix(AUTOENCODER_PREFIX)
      for known in (name, bare, AUTOENCODER_PREFIX + bare):
        if known in origin.dtypes:
          return origin.dtypes[known]
  return "F32"


def _at(tree: Any, path: tuple[str, ...]) -> Any:
  for part in path:
    tree = tree[part]
  return tree
