"""Tests benchmarks/ whole, at sizes that say nothing of speed."""

import json

import pytest

from benchmarks import suites


def test_every_task_compares_with_its_definition():
  seen = []
  result = suites.run_suite(
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
  lines = [suites.format_row(), *map(suites.format_row, seen)]
  assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
  ("name", "first"),
  [
    ("train", "step"),
    pytest.param("sizes", "2 × 32 tokens, float32", marks=pytest.mark.slow),
    ("generate", "counted on the host"),
    ("evaluate", "position by position"),
    ("data", "bytes as tokens"),
  ],
)
def test_every_suite_counts_tokens(name, first):
  seen = []
  result = suites.run_suite(name, size="tiny", seconds=0.01, row_fn=seen.append)
  assert seen[0].implementation == first and seen[0].speedup == 1.0
  assert len(seen) >= 2 or name == "sizes"
  costs = {}
  for row in seen:
    assert row.tokens_per_second > 0
    cost = costs.setdefault(row.task, row.tokens_per_second)
    assert row.speedup == pytest.approx(row.tokens_per_second / cost)
  json.dumps(result, allow_nan=False)
  lines = [suites.format_row(), *map(suites.format_row, seen)]
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
    suites.run_suite(
      **{"name": "kernels", "size": "tiny", "seconds": 1.0, **change}
    )
