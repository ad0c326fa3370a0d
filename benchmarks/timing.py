"""Times compiled functions side by side against what the device can do."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calm_jax.training.peak import peak_flops_per_second

_MAX_REPEATS = 50
_LONG_SECONDS = 1.0  # what comes before a call as long does not matter


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
  """One implementation of one task, or one part of it."""

  task: str
  implementation: str
  seconds: float  # the median
  seconds_spread: float  # between the quartiles
  num_repeats: int
  temporary_bytes: int | None  # that the largest compiled program of it
  # allocates beside its results; None: there is none to ask
  speedup: float  # over the task's first implementation, of equal work
  roofline_share: float | None  # least time over median; 1: the device's limit
  tokens_per_second: float | None
  mfu: float | None  # the model's FLOPs over what the device's maker says of it
  device_bytes: int | None  # the most that the device has held up to here


def _held_by_jax() -> int | None:
  return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


class Version(NamedTuple):
  """One implementation, ready to be called."""

  call: Callable[[], Any]
  temporary_bytes: int | None = None
  num_tokens: int = 0  # that one call handles; 0: not counted in tokens
  num_flops: float = 0.0  # of the model in one call; 0: not counted
  # The most that the device has held, of whatever computes; None: not known.
  held_fn: Callable[[], int | None] = _held_by_jax


def compare(
  task: str,
  versions: Mapping[str, Callable[..., Any]],
  arguments: Sequence[Any],
  work: Work,
  roofline: Roofline,
  seconds: float,
) -> list[Row]:
  """Compiles versions of the same work and times them.

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
    name: compile_version(function, *arguments)
    for name, function in versions.items()
  }
  return compare_calls(task, compiled, seconds, roofline.seconds(work))


def compile_version(
  function: Callable[..., Any], *arguments: Any, num_tokens: int = 0
) -> Version:
  """A pure function compiled for its arguments."""
  compiled = jax.jit(function).lower(*arguments).compile()
  return Version(
    lambda: compiled(*arguments),
    compiled.memory_analysis().temp_size_in_bytes,
    num_tokens,
  )


def compare_calls(
  task: str,
  versions: Mapping[str, Version],
  seconds: float,
  least_seconds: float | None = None,
) -> list[Row]:
  """Times versions of the same work in turns, so that all see the same load.

  Each timed call follows an untimed one of the same version, as it would in a
  loop: the version before it may have left caches cold and hundreds of MiB that
  the system takes back while the next one runs.

  Args:
    task: its name.
    versions: by name; the first is what the others are compared to, token by
      token where they are counted.
    seconds: how long each version is repeated, at least three times.
    least_seconds: in which no version can do the work on this device.

  Returns:
    A row for each version.
  """
  times = _time_in_turns(
    {name: version.call for name, version in versions.items()}, seconds
  )
  rows, first_cost = [], None
  peak = peak_flops_per_second(jax.devices()[0])
  for name, version in versions.items():
    low, median, high = np.quantile(times[name], (0.25, 0.5, 0.75)).tolist()
    cost = median / (version.num_tokens or 1)
    first_cost = first_cost or cost
    rows.append(
      Row(
        task=task,
        implementation=name,
        seconds=median,
        seconds_spread=high - low,
        num_repeats=len(times[name]),
        temporary_bytes=version.temporary_bytes,
        speedup=first_cost / cost,
        roofline_share=least_seconds and least_seconds / median,
        tokens_per_second=1 / cost if version.num_tokens else None,
        mfu=version.num_flops / median / peak
        if version.num_flops and peak
        else None,
        device_bytes=version.held_fn(),
      )
    )
  return rows


def measure_roofline(dtype: jnp.dtype, size: int) -> Roofline:
  """Measures what the device does at best with numbers as models have them.

  Random ones: a device that multiplies ones needs less power and runs faster.

  Args:
    dtype: of the matrix products.
    size: of the square matrices; the arrays of the other two have size².

  Returns:
    The best of several runs for each.
  """
  keys = jax.random.split(jax.random.key(0))
  matrix = jax.random.normal(keys[0], (size, size)).astype(dtype)
  x = jax.random.uniform(keys[1], (size, size), jnp.float32)
  num_rounds, num_chains = 64, 8

  def product(a):
    return jnp.dot(a, a, preferred_element_type=jnp.float32)

  def chains(a):
    # Several, because one would wait for the result of its last operation.
    many = [a / (i + 1) for i in range(num_chains)]
    for _ in range(num_rounds):
      many = [it * it - 0.5 for it in many]  # stays between −1 and 1
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


def _time_in_turns(calls, seconds):
  for call in calls.values():
    jax.block_until_ready(call())
  times = {name: [] for name in calls}
  start = time.perf_counter()
  while True:
    for name, call in calls.items():
      first = _seconds(call)
      is_long = first > _LONG_SECONDS
      times[name].append(first if is_long else _seconds(call))
    num_repeats = len(times[name])
    is_late = time.perf_counter() - start > seconds * len(calls)
    if num_repeats >= _MAX_REPEATS or (is_late and num_repeats >= 3):
      return times


def _best_seconds(function, argument):
  call = compile_version(function, argument).call
  return min(_time_in_turns({"": call}, 1.0)[""])


def _seconds(call):
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start
