"""The safetensors format, read and written tensor by tensor.

A file is 8 bytes of header length (little-endian), a JSON header of names,
dtypes, shapes and byte ranges, and the bytes.
"""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from calm_jax import json_files

DTYPES = {
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
}
# Of buffers, which are looked at and not converted.
_INTEGERS = {"I32": np.dtype(np.int32), "I64": np.dtype(np.int64)}
# Bits of a number in the format's other dtypes, whose tensors may be there.
_OTHER_BITS = {
  "BOOL": 8,
  "U8": 8,
  "I8": 8,
  "F8_E5M2": 8,
  "F8_E4M3": 8,
  "F8_E8M0": 8,
  "F8_E5M2FNUZ": 8,
  "F8_E4M3FNUZ": 8,
  "F6_E2M3": 6,
  "F6_E3M2": 6,
  "F4": 4,
  "I16": 16,
  "U16": 16,
  "U32": 32,
  "U64": 64,
  "F64": 64,
  "C64": 64,
}
_MAX_HEADER_SIZE = 100 * 2**20  # bytes, the format's own limit


class SafetensorsFile:
  """One file; nothing but its header stays in memory."""

  def __init__(self, path: pathlib.Path):
    """Reads the header.

    Args:
      path: of the file.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is no safetensors file, or not all of one.
    """
    self._path = path
    self._entries, self._start = _read_header(path)

  @property
  def names(self) -> list[str]:
    return list(self._entries)

  def shape(self, name: str) -> tuple[int, ...]:
    return tuple(self._entries[name]["shape"])

  def dtype(self, name: str) -> str:
    """The format's name of the dtype, such as F32 or BF16."""
    return self._entries[name]["dtype"]

  def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Reads a tensor, or some rows of it.

    Args:
      name: of the tensor.
      rows: range along the first axis.

    Returns:
      An array of the stored dtype.
    """
    dtype = (DTYPES | _INTEGERS)[self.dtype(name)]
    shape = self.shape(name)
    offset = self._start + self._entries[name]["data_offsets"][0]
    if shape:
      first, last, _ = rows.indices(shape[0])
      shape = (last - first, *shape[1:])
      offset += first * math.prod(shape[1:]) * dtype.itemsize
    # Plain reads: mapped pages would count as memory of this process.
    with self._path.open("rb") as file:
      file.seek(offset)
      array = np.fromfile(file, dtype, math.prod(shape))
    return array.reshape(shape)


def write_safetensors(
  path: pathlib.Path,
  entries: Mapping[str, tuple[str, tuple[int, ...]]],
  tensors: Iterator[tuple[str, np.ndarray]],
) -> None:
  """Writes a file while its tensors are being made.

  Args:
    path: of the new file.
    entries: dtype and shape of every tensor by name, in the order of the file.
    tensors: name and array of each, in the same order.
  """
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  offset = 0
  for name, (dtype, shape) in entries.items():
    size = math.prod(shape) * DTYPES[dtype].itemsize
    header[name] = {
      "dtype": dtype,
      "shape": list(shape),
      "data_offsets": [offset, offset + size],
    }
    offset += size
  encoded = json.dumps(header, separators=(",", ":")).encode()
  encoded += b" " * (-len(encoded) % 8)
  with path.open("xb") as file:
    file.write(len(encoded).to_bytes(8, "little"))
    file.write(encoded)
    for (name, array), (expected, (dtype, shape)) in zip(
      tensors, entries.items(), strict=True
    ):
      assert (name, array.shape) == (expected, shape)
      stored = np.ascontiguousarray(array, DTYPES[dtype]).reshape(-1)
      file.write(stored.view(np.uint8).data)


_NOT_OF_THE_FORM = (
  AttributeError,
  KeyError,
  TypeError,
  ValueError,
)


def _read_header(path: pathlib.Path) -> tuple[dict[str, Any], int]:
  total = path.stat().st_size
  with path.open("rb") as file:
    length = int.from_bytes(file.read(8), "little")
    if total < 8 or length > min(_MAX_HEADER_SIZE, total - 8):
      raise ValueError(
        f"{path} is no whole safetensors file: it has {total} bytes, and its"
        f" header alone would take {length}; download it again."
      )
    header = file.read(length)
  try:
    entries = json_files.parse(header.decode(), is_finite=False)
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
      _check_entry(path, name, entry)
    _check_places(entries)
    sizes = [entry["data_offsets"][1] for entry in entries.values()]
  except _NOT_OF_THE_FORM as error:
    raise ValueError(
      f"{path} is no safetensors file: its header cannot be read"
      f" ({type(error).__name__}: {str(error)[:200]}); download it again."
    ) from None
  start = 8 + length
  if start + max(sizes, default=0) != total:
    raise ValueError(
      f"{path} is truncated or altered: its header describes"
      f" {start + max(sizes, default=0)} bytes and it has {total}; download it"
      " again."
    )
  return entries, start


def _check_entry(
  path: pathlib.Path, name: str, entry: Mapping[str, Any]
) -> None:
  dtype, shape = entry["dtype"], entry["shape"]
  begin, end = entry["data_offsets"]
  if not isinstance(dtype, str):
    raise ValueError(f"tensor {name} has dtype {dtype!r}")
  if not all(type(size) is int and size >= 0 for size in [*shape, begin, end]):
    raise ValueError(f"tensor {name} has shape {shape} at {begin} to {end}")
  if (known := (DTYPES | _INTEGERS).get(dtype)) is not None:
    bits = 8 * known.itemsize
  else:
    bits = _OTHER_BITS.get(dtype)  # None: of a later version of the format
  size = end - begin
  if size < 0 or (bits is not None and 8 * size != math.prod(shape) * bits):
    raise ValueError(f"tensor {name} of shape {shape} takes {size} bytes")


def _check_places(entries: Mapping[str, Any]) -> None:
  """Tensors follow one another without gaps, and none lies over another."""
  places = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
  stop = 0
  for begin, end in places:
    if begin != stop:
      raise ValueError(
        f"a tensor begins at byte {begin}, and the one before it ends at {stop}"
      )
    stop = end
