"""Tests benchmarks/timing.py on functions whose cost is known."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.timing import Roofline, Work, compare, measure_roofline


def test_the_slowest_resource_sets_the_limit():
  roofline = Roofline(matmul_flops=100.0, vector_flops=10.0, num_bytes=5.0)
  assert roofline.seconds(Work(matmul_flops=200.0)) == 2.0
  work = Work(matmul_flops=200.0, vector_flops=30.0, num_bytes=5.0)
  assert roofline.seconds(work) == 3.0


def test_times_are_those_of_the_functions():
  """One version waits 30 ms longer on the host than the other."""

  def wait(x):
    time.sleep(0.03)
    return np.asarray(x)

  def slow(x):
    return jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), x)

  roofline = Roofline(1.0, 10.0, 1.0)
  rows = compare(
    "wait",
    {"slow": slow, "fast": lambda x: x + 1},
    (jnp.float32(0),),
    Work(vector_flops=0.1),
    roofline,
    seconds=0.2,
  )
  assert [row.implementation for row in rows] == ["slow", "fast"]
  assert rows[0].seconds > 0.03 and rows[0].speedup == 1.0
  assert rows[1].speedup == rows[0].seconds / rows[1].seconds > 1
  assert rows[0].roofline_share == pytest.approx(0.01 / rows[0].seconds)
  assert all(row.num_repeats >= 3 for row in rows)


def test_mfu_is_of_the_makers_figure(monkeypatch):
  monkeypatch.setattr(timing, "peak_flops_per_second", lambda device: 1e6)
  version = timing.Version(lambda: time.sleep(0.01), num_flops=1e3)
  plain = version._replace(num_flops=0.0, held_fn=lambda: 7)
  rows = timing.compare_calls("sleep", {"a": version, "b": plain}, 0.01)
  assert (
    rows[0].mfu == pytest.approx(1e-3 / rows[0].seconds) and rows[0].mfu < 0.1
  )
  assert rows[1].mfu is None and rows[1].device_bytes == 7


def test_temporaries_are_counted():
  def with_matrix(x):
    return jnp.sort(x[:, None] * x[None], axis=0).sum(axis=0)

  rows = compare(
    "memory",
    {"matrix": with_matrix, "vector": lambda x: x + 1},
    (jnp.ones(256),),
    Work(),
    Roofline(1.0, 1.0, 1.0),
    seconds=0.01,
  )
  assert rows[0].temporary_bytes >= 4 * 256**2
  assert rows[1].temporary_bytes == 0


def test_the_roofline_is_positive():
  assert all(speed > 1e6 for speed in measure_roofline(jnp.float32, 64))
