"""Times compiled functions side by side against what the device can do."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_MAX_REPEATS = 50


class Work(NamedTuple):
  """The least that a task has to do, whoever does it."""

  matmul_flops: float = 0.0  # in matrix products
  vector_flops: float = 0.0  # everywhere else; an integer operation counts one
  num_bytes: float = 0.0  # of arguments and results


class Roofline(NamedTuple):
  """The device's speed, measured in the same run."""

  matmul_flops: float  # per second
  vector_flops: float  # per second
  num_bytes: float  # per second, read and written

  def seconds(self, work: Work) -> float:
    """The time in which no version can do the work on this device."""
    return max(a / b for a, b in zip(work, self, strict=True))


class Row(NamedTuple):
  """One implementation of one task."""

  task: str
  implementation: str
  seconds: float  # the median
  seconds_spread: float  # between the quartiles
  num_repeats: int
  temporary_bytes: int  # that the compiled program allocates beside its results
  speedup: float  # over the task's first implementation, median to median
  roofline_share: float  # least time over median; 1 is the device's limit


def compare(
  task: str,
  versions: Mapping[str, Callable[..., Any]],
  arguments: Sequence[Any],
  work: Work,
  roofline: Roofline,
  seconds: float,
) -> list[Row]:
  """Times versions of the same work in turns, so that all see the same load.

  Args:
    task: its name.
    versions: functions by name; the first is what the others are compared to.
    arguments: of every version.
    work: what they do.
    roofline: of this device.
    seconds: how long each version is repeated, at least three times.

  Returns:
    A row for each version.
  """
  compiled = {
    name: jax.jit(function).lower(*arguments).compile()
    for name, function in versions.items()
  }
  times = _time_in_turns(compiled, arguments, seconds)
  medians = {name: float(np.median(it)) for name, it in times.items()}
  first = next(iter(medians.values()))
  rows = []
  for name, it in times.items():
    low, high = np.quantile(it, (0.25, 0.75))
    rows.append(
      Row(
        task=task,
        implementation=name,
        seconds=medians[name],
        seconds_spread=float(high - low),
        num_repeats=len(it),
        temporary_bytes=compiled[name].memory_analysis().temp_size_in_bytes,
        speedup=first / medians[name],
        roofline_share=roofline.seconds(work) / medians[name],
      )
    )
  return rows


def measure_roofline(dtype: jnp.dtype, size: int) -> Roofline:
  """Measures what the device does at best.

  Args:
    dtype: of the matrix products.
    size: of the square matrices; the arrays of the other two have size².

  Returns:
    The best of several runs for each.
  """
  x = jnp.ones((size, size), jnp.float32)
  matrix = x.astype(dtype)
  num_rounds, num_chains = 64, 8

  def product(a):
    return jnp.dot(a, a, preferred_element_type=jnp.float32)

  def chains(a):
    # Several, because one would wait for the result of its last operation.
    many = [a + i for i in range(num_chains)]
    for _ in range(num_rounds):
      many = [it * it + 0.5 for it in many]
    return sum(many)

  def copy(a):
    return a + 1.0

  return Roofline(
    matmul_flops=2 * size**3 / _best_seconds(product, matrix),
    vector_flops=2
    * num_rounds
    * num_chains
    * x.size
    / _best_seconds(chains, x),
    num_bytes=2 * x.nbytes / _best_seconds(copy, x),
  )


def _time_in_turns(compiled, arguments, seconds):
  for function in compiled.values():
    jax.block_until_ready(function(*arguments))
  times = {name: [] for name in compiled}
  start = time.perf_counter()
  while True:
    for name, function in compiled.items():
      times[name].append(_seconds(function, arguments))
    num_repeats = len(times[name])
    is_late = time.perf_counter() - start > seconds * len(compiled)
    if num_repeats >= _MAX_REPEATS or (is_late and num_repeats >= 3):
      return times


def _best_seconds(function, argument):
  compiled = {"": jax.jit(function).lower(argument).compile()}
  return min(_time_in_turns(compiled, (argument,), 1.0)[""])


def _seconds(function, arguments):
  start = time.perf_counter()
  jax.block_until_ready(function(*arguments))
  return time.perf_counter() - start
