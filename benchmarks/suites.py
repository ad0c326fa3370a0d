"""Measures every implementation of the same work side by side, in one run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import data, evaluate, generate, kernels, sizes, train
from benchmarks.timing import Roofline, Row, measure_roofline
from benchmarks.work import SIZES
from calm_jax.runs import provenance

# Each yields the rows of one task after another.
Suite = Callable[[str, int, Roofline, float], Iterator[Row]]

SUITES: Mapping[str, Suite] = {
  "kernels": kernels.run,
  "train": train.run,
  "sizes": sizes.run,
  "generate": generate.run,
  "evaluate": evaluate.run,
  "data": data.run,
}


def run_suite(
  name: str,
  *,
  size: str = "auto",
  seed: int = 0,
  seconds: float = 10.0,
  row_fn: Callable[[Row], None] = lambda row: None,
  result_fn: Callable[[dict[str, Any]], None] | None = None,
  suites: Mapping[str, Suite] = SUITES,
  facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Runs one suite on the device at hand.

  Args:
    name: of the suite.
    size: of the work, one of SIZES; auto: what the device is made for.
    seed: of the inputs.
    seconds: for which each implementation is repeated, at least three times.
    row_fn: called with each row when it is there.
    result_fn: called with the result so far, after each row and at the end.
    suites: to choose from.
    facts: what else the result says; the suite may add to it.

  Returns:
    The result file: rows, the measured roofline and where they come from;
    `is_complete` is false in a result so far.

  Raises:
    ValueError: if there is no such suite or size.
  """
  if name not in suites:
    raise ValueError(
      f"suite {name!r} is not known; choose one of {', '.join(suites)}."
    )
  if size == "auto":
    size = "cpu" if jax.default_backend() == "cpu" else "accelerator"
  if size not in SIZES:
    raise ValueError(
      f"size {size!r} is not known; choose one of auto, {', '.join(SIZES)}."
    )
  if seconds <= 0:
    raise ValueError(f"seconds is {seconds}; it is positive.")
  roofline = measure_roofline(
    jnp.dtype(SIZES[size].matrix_dtype), SIZES[size].matrix_size
  )
  result = {
    "suite": name,
    "is_complete": False,
    "size": size,
    "rows": [],
    "roofline": {
      **roofline._asdict(),
      "matrix_dtype": SIZES[size].matrix_dtype,
    },
    "commit": provenance.commit(),
    "versions": provenance.versions(),
    "device": provenance.device(),
    "seed": seed,
  }
  result |= facts or {}
  for row in suites[name](size, seed, roofline, seconds):
    row_fn(row)
    result["rows"].append(row._asdict())
    if result_fn:
      result_fn(result)
  result["is_complete"] = True
  if result_fn:
    result_fn(result)
  return result


def format_row(row: Row | None = None) -> str:
  """One line of the table; without a row, its head."""
  cells = ("task", "implementation", "median", "±", "n", "temporaries")
  cells = (*cells, "speed-up", "share", "of limit", "tokens/s", "MFU", "held")
  if row is not None:
    temporaries = row.temporary_bytes
    cells = (
      row.task,
      row.implementation,
      f"{1e3 * row.seconds:.1f} ms",
      f"{1e3 * row.seconds_spread:.1f} ms",
      str(row.num_repeats),
      _format("{:.1f} MiB", temporaries and temporaries / 2**20),
      f"{row.speedup:.2f}×",
      f"{100 / row.speedup:.0f} %",
      _format("{:.0%}", row.roofline_share),
      _format("{:,.0f}", row.tokens_per_second),
      _format("{:.0%}", row.mfu),
      _format("{:.1f} GiB", row.device_bytes and row.device_bytes / 2**30),
    )
  widths = (32, 32, -12, -11, -4, -13, -10, -8, -9, -12, -5, -10)
  return "".join(
    f"{cell:<{width}}" if width > 0 else f"{cell:>{-width}}"
    for cell, width in zip(cells, widths, strict=True)
  )


def _format(pattern: str, value: float | None) -> str:
  return "-" if value is None else pattern.format(value)
