"""How large the work of a suite is, by name."""

from typing import NamedTuple


class _Size(NamedTuple):
  """How large the work is, and the matrices that measure the device."""

  matrix_size: int
  matrix_dtype: str


SIZES = {
  "tiny": _Size(256, "float32"),  # seconds, for tests
  "cpu": _Size(2048, "float32"),
  "accelerator": _Size(8192, "bfloat16"),
}
