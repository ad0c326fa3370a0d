"""All tensors of a Hugging Face directory, however it splits them."""

import pathlib
from typing import Any

import numpy as np

from calm_jax import json_files
from calm_jax.interop.safetensors_file import SafetensorsFile
from calm_jax.interop.torch_file import TorchFile

_SAFETENSORS = "model.safetensors"
_TORCH = "pytorch_model.bin"


class Weights:
  """Tensors by name; each is read when it is asked for."""

  def __init__(self, directory: pathlib.Path):
    """Finds the files: safetensors first, sharded or not, then torch's.

    Args:
      directory: that holds `config.json` and the weights.

    Raises:
      OSError: if a file is missing or cannot be read.
      ValueError: if a file is damaged or refused.
    """
    self.directory = directory
    for name, open_file in (
      (_SAFETENSORS, SafetensorsFile),
      (_TORCH, TorchFile),
    ):
      index = directory / f"{name}.index.json"
      if index.exists():
        self._files = _open_shards(index, open_file)
        return
      if (directory / name).exists():
        file = open_file(directory / name)
        self._files = dict.fromkeys(file.names, file)
        return
    raise FileNotFoundError(
      f"{directory} holds no weights; {_SAFETENSORS} or {_TORCH} was expected,"
      " or an index of their shards."
    )

  @property
  def names(self) -> list[str]:
    return list(self._files)

  def __contains__(self, name: str) -> bool:
    return name in self._files

  def shape(self, name: str) -> tuple[int, ...]:
    return self._files[name].shape(name)

  def dtype(self, name: str) -> str:
    """The safetensors name of the dtype, such as F32 or BF16."""
    return self._files[name].dtype(name)

  def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Reads a tensor, or some of its rows, as float32.

    Args:
      name: of the tensor.
      rows: range along the first axis.

    Returns:
      A float32 array.

    Raises:
      ValueError: if a number in it is not finite.
    """
    array = self._files[name].read(name, rows).astype(np.float32)
    if not np.isfinite(array).all():
      raise ValueError(
        f"tensor {name} in {self.directory} holds infinite or undefined"
        " numbers; download the weights again."
      )
    return array


def _open_shards(index: pathlib.Path, open_file: Any) -> dict[str, Any]:
  try:
    shard_of = json_files.read_json(index)["weight_map"]
    shards = sorted(set(shard_of.values()))
  except (ValueError, KeyError, TypeError, AttributeError):
    raise ValueError(
      f"{index} is no index of weights: it has no readable weight_map;"
      " download it again."
    ) from None
  files = {}
  for shard in shards:
    path = index.parent / str(shard)
    if pathlib.Path(str(shard)).name != shard or not path.is_file():
      raise FileNotFoundError(
        f"{index} names the shard {shard!r}, which is not beside it; download"
        " it too."
      )
    files[shard] = open_file(path)
  for name, shard in shard_of.items():
    if name not in files[shard].names:
      raise ValueError(
        f"{index} says that tensor {name} is in {shard}, which does not have"
        " it; download both again."
      )
  return {name: files[shard] for name, shard in shard_of.items()}
