"""Tests calm_jax/planning/table.py, and the plans that are committed."""

import json
import pathlib
import shutil

import pytest

from calm_jax.planning.table import write_table

_PLANS = pathlib.Path(__file__).parents[2] / "benchmarks" / "plans"
_PLAN = {
  "topology": "v5p:4x4x4",
  "mesh": {"data": 4, "fsdp": 16, "tensor": 1, "sequence": 1},
  "remat": "dots",
  "bytes_per_chip": 3 * 2**29,
  "bytes_available": 2**33,
  "flops_per_step": 8.67e15,
  "fits": True,
  "compute_seconds": 0.0123,
  "memory_seconds": 0.5,
  "network_seconds": 0.25,
  "tokens_per_second": 4194304.0,
  "days": 1.45,
  "chip_hours": 2222.2,
}


def test_a_row_for_every_plan(tmp_path):
  refused = {**_PLAN, "topology": "v5e:1x1", "fits": False}
  for name, plan in [("xl-v5p-4x4x4", _PLAN), ("m-v5e-1x1", refused)]:
    (tmp_path / f"{name}.json").write_text(json.dumps(plan))
  rows = write_table(tmp_path).read_text().splitlines()[-2:]
  assert rows == [
    "| m | v5e:1x1 | data 4 × fsdp 16 | dots | 1.5 of 8.0 | 8.67e+15 |"
    " does not fit |  |  |  |",
    "| xl | v5p:4x4x4 | data 4 × fsdp 16 | dots | 1.5 of 8.0 | 8.67e+15 |"
    " 12, 500, 250 | 4,194,304 | 1.45 | 2,222 |",
  ]


def test_the_committed_table_is_that_of_the_committed_plans(tmp_path):
  plans = sorted(_PLANS.glob("*.json"))
  if not plans:
    pytest.skip("no plans are committed")
  for plan in plans:
    shutil.copy(plan, tmp_path)
  text = write_table(tmp_path).read_text()
  assert text == (_PLANS / "README.md").read_text()
