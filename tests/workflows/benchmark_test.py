"""Tests calm_jax/workflows/benchmark*.py at sizes that say nothing of speed."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from calm_jax.sampling.next_chunk import TemperatureSettings
from calm_jax.sampling.prompt import Prompts
from calm_jax.workflows import benchmark
from calm_jax.workflows.benchmark_evaluate import random_batch, score_in_turn
from calm_jax.workflows.benchmark_generate import count_on_host, generate
from calm_jax.workflows.benchmark_models import (
  MODEL_SIZES,
  make_config,
  random_model,
)
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
  ("name", "first"),
  [
    ("train", "step"),
    ("generate", "counted on the host"),
    ("evaluate", "position by position"),
    ("data", "bytes as tokens"),
  ],
)
def test_every_suite_counts_tokens(name, first):
  seen = []
  result = benchmark.run_suite(
    name, size="tiny", seconds=0.01, row_fn=seen.append
  )
  assert seen[0].implementation == first and seen[0].speedup == 1.0
  assert len(seen) >= 2
  costs = {}
  for row in seen:
    assert row.tokens_per_second > 0
    cost = costs.setdefault(row.task, row.tokens_per_second)
    assert row.speedup == pytest.approx(row.tokens_per_second / cost)
  json.dumps(result, allow_nan=False)
  lines = [benchmark.format_row(), *map(benchmark.format_row, seen)]
  assert len({len(line) for line in lines}) == 1


@pytest.fixture(scope="module")
def model():
  return _model(4, 6)


def _model(chunk_size, num_chunks):
  config = make_config(
    MODEL_SIZES["tiny"],
    chunk_size=chunk_size,
    num_chunks=num_chunks,
    num_rows=2,
  )
  return random_model(config, jax.random.key(0), 0.3)


def test_the_model_draws_equal_chunks_as_often_as_asked(model):
  ids = jnp.arange(100, dtype=jnp.uint32)
  hidden = jax.random.normal(jax.random.key(1), (8, 64))
  draw = jax.jit(lambda params, *rest: model.sampler_fn(params).draw(*rest))
  chunks = draw(
    model.params, hidden, jax.random.split(jax.random.key(2), 8), ids
  )
  is_same = (chunks[:, :, None] == chunks[:, None]).all(axis=-1)
  share = (is_same.sum() - 800) / (8 * 100 * 99)
  assert abs(share - 0.3) < 0.1


def test_the_host_counts_what_the_compiled_loop_counts(model):
  """Where all candidates agree, both give the only chunk there is."""
  model = model._replace(params={**model.params, "noise_scale": 0.0})
  prompts = Prompts(np.full((2, 2, 4), 7, np.int32), np.full(2, 2, np.int32))
  settings = {"num_chunks": 3, "seed": 0}
  expected = count_on_host(model, prompts, num_candidates=8, **settings)
  for method in ("batch", "hybrid"):
    temperature = TemperatureSettings(
      temperature=0.5, method=method, num_candidates=8
    )
    found = generate(model, prompts, temperature, **settings)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("is_cached", [True, False])
def test_position_by_position_gives_the_same_sums(is_cached):
  model = _model(2, 8)
  batch = random_batch(jax.random.key(1), 2, 8, model.config)
  settings = PredictionSettings(num_samples=5)
  hidden = np.arange(6)  # of 8 chunks, the last two have no four tokens after
  expected = prediction_columns(
    model.sampler_fn, model.params, [batch], settings
  )
  found = score_in_turn(model, batch, settings, hidden, is_cached=is_cached)
  assert found["collision_4"].sum() > 0
  for name, sums in found.items():
    np.testing.assert_allclose(sums, expected[name], rtol=1e-5, err_msg=name)


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
