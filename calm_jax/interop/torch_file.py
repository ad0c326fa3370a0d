"""Weights pickled by torch, read without running what the pickle says."""

import pathlib
import pickle
from typing import Any

import ml_dtypes
import numpy as np


class TorchFile:
  """One `.bin` file with a flat dictionary of tensors."""

  def __init__(self, path: pathlib.Path):
    """Reads names, shapes and dtypes.

    Args:
      path: of the file.

    Raises:
      OSError: if it cannot be read.
      ValueError: if torch is not installed, or the file holds anything but
        tensors by name.
    """
    self._path = path
    dtypes = _dtypes(path)
    self._shapes: dict[str, tuple[int, ...]] = {}
    self._dtype_names: dict[str, str] = {}
    for name, tensor in self._load().items():
      dtype = getattr(tensor, "dtype", None)
      if not isinstance(name, str) or dtype is None:
        raise ValueError(
          f"{path} holds {str(name)[:60]!r}, a {type(tensor)}; tensors by name"
          " were expected."
        )
      self._shapes[name] = tuple(tensor.shape)
      self._dtype_names[name] = dtypes.get(dtype, str(dtype))

  @property
  def names(self) -> list[str]:
    return list(self._shapes)

  def shape(self, name: str) -> tuple[int, ...]:
    return self._shapes[name]

  def dtype(self, name: str) -> str:
    """The safetensors name of the dtype, such as F32; else torch's."""
    return self._dtype_names[name]

  def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Reads a tensor, or some rows of it; see `SafetensorsFile.read`."""
    # The file is mapped anew for each tensor, so that the pages of those that
    # were read before do not stay in memory.
    tensor = self._load()[name].detach()
    if tensor.ndim:
      tensor = tensor[rows]
    if self.dtype(name) == "BF16":  # which NumPy does not know
      bits = tensor.contiguous().view(dtype=_torch(self._path).int16)
      return bits.numpy().copy().view(ml_dtypes.bfloat16)
    return tensor.numpy().copy()

  def _load(self) -> dict[str, Any]:
    torch = _torch(self._path)
    try:
      found = torch.load(
        self._path, map_location="cpu", weights_only=True, mmap=True
      )
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
      reason = str(error).split("\n")[0][:200]
      raise ValueError(
        f"{self._path} was refused, nothing in it was executed: torch cannot"
        f" read it as plain tensors ({reason.rstrip('.')}); give safetensors."
      ) from None
    if not isinstance(found, dict):
      raise ValueError(
        f"{self._path} holds a {type(found).__name__}; a dictionary of tensors"
        " was expected."
      )
    return found


def _dtypes(path: pathlib.Path) -> dict[Any, str]:
  torch = _torch(path)
  return {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int64: "I64",
  }


def _torch(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError:
    raise ValueError(
      f"{path} was written by torch, which is not installed; run"
      " pip install '.[torch]', or give safetensors."
    ) from None
  return torch
