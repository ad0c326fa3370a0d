"""Means kept as sums and counts, and the files they are written to."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import tensorboardX
from etils import epath

from calm_jax import json_files


class Sum(NamedTuple):
  """A mean that can be merged: total over count."""

  total: float | jax.Array  # [] float32
  count: float | jax.Array  # [] float32


Sums = Mapping[str, Sum]


def masked_sum(values: jax.Array, mask: jax.Array) -> Sum:
  """Sums values, [...], where mask, [...] bool, is True.

  What stands elsewhere may be anything, NaN included.
  """
  total = jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0))
  return Sum(total, jnp.sum(mask, dtype=jnp.float32))


def merge(first: Sums, second: Sums) -> dict[str, Sum]:
  """Adds what both have by name; a name that only one has stays as it is."""
  merged = {**first, **second}
  for name in first.keys() & second.keys():
    merged[name] = Sum(
      first[name].total + second[name].total,
      first[name].count + second[name].count,
    )
  return merged


def compute(sums: Sums) -> dict[str, float]:
  """The means, by name; a mean over nothing is left out."""
  return {
    name: float(item.total) / float(item.count)
    for name, item in sums.items()
    if item.count
  }


class MetricsWriter:
  """Appends rows to metrics.jsonl and to TensorBoard's files."""

  def __init__(
    self, directory: epath.PathLike, *, start_step: int, is_active: bool
  ):
    """Opens the files of a run that starts or goes on.

    Args:
      directory: of the run.
      start_step: steps done. Rows of later steps come from an interrupted
        attempt; they are dropped, because they will be written again.
      is_active: False on all processes but one: they write nothing.

    Raises:
      OSError: if a file cannot be read or written.
      ValueError: if metrics.jsonl holds something else than rows.
    """
    self._rows = None
    if is_active:
      directory = epath.Path(directory)
      self._rows = directory / "metrics.jsonl"
      _drop_rows_after(self._rows, start_step)
      self._board = tensorboardX.SummaryWriter(
        str(directory / "tensorboard"), purge_step=start_step
      )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row: numbers by name, after `step` steps."""
    if self._rows is None:
      return
    row = {"step": step}
    for name, value in values.items():
      row[name] = value if math.isfinite(value) else None
      self._board.add_scalar(name, value, step)
    json_files.append_row(self._rows, row)

  def close(self) -> None:
    if self._rows is not None:
      self._board.close()


def _drop_rows_after(path: epath.Path, step: int) -> None:
  if not path.exists():
    return
  rows = json_files.read_rows(path)
  json_files.write_rows(path, (row for row in rows if row["step"] <= step))
