"""Tests calm_jax/workflows/benchmark*.py at sizes that say nothing of speed."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.workflows import benchmark
from calm_jax.workflows.benchmark_timing import (
  Roofline,
  Work,
  compare,
  measure_roofline,
)


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


def test_every_task_compares_with_its_definition():
  seen = []
  result = benchmark.run_suite(
    "kernels", size="tiny", seconds=0.01, row_fn=seen.append
  )
  assert [row._asdict() for row in seen] == result["rows"]
  tasks = {row.task: [] for row in seen}
  for row in seen:
    tasks[row.task].append(row)
  assert len(tasks) == 6
  for rows in tasks.values():
    assert "reference" in rows[0].implementation and rows[0].speedup == 1.0
    assert len(rows) > 1
  for name in ("commit", "versions", "device", "seed", "roofline"):
    assert name in result
  json.dumps(result, allow_nan=False)
  lines = [benchmark.format_row(), *map(benchmark.format_row, seen)]
  assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"name": "kernel"}, "choose one of kernels"),
    ({"size": "huge"}, "choose one of auto, tiny"),
    ({"seconds": 0.0}, "positive"),
  ],
)
def test_impossible_settings_are_refused(change, words):
  with pytest.raises(ValueError, match=words):
    benchmark.run_suite(
      **{"name": "kernels", "size": "tiny", "seconds": 1.0, **change}
    )
