"""Tests calm_jax/training/metrics.py."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.json_files import read_rows
from calm_jax.training.metrics import (
  MetricsWriter,
  Sum,
  compute,
  masked_sum,
  merge,
)


def _write(directory, start_step, rows):
  writer = MetricsWriter(directory, start_step=start_step, is_active=True)
  for step, values in rows:
    writer.write(step, values)
  writer.close()


def test_merged_means_are_the_mean_of_all():
  rng = np.random.default_rng(0)
  values, mask = rng.normal(size=(6, 5)), rng.random((6, 5)) < 0.5
  parts = [
    {"x": masked_sum(jnp.float32(values[i]), jnp.array(mask[i]))}
    for i in range(6)
  ]
  total = {}
  for part in parts:
    total = merge(total, part)
  np.testing.assert_allclose(
    compute(total)["x"], values[mask].mean(), rtol=1e-5
  )


def test_what_is_masked_may_be_nan():
  values = jnp.array([1.0, jnp.nan, 3.0])
  found = masked_sum(values, jnp.array([True, False, True]))
  assert (float(found.total), float(found.count)) == (4.0, 2.0)


def test_a_mean_over_nothing_is_left_out():
  assert compute({"a": Sum(0.0, 0.0), "b": Sum(1.0, 2.0)}) == {"b": 0.5}


def test_names_of_one_side_only_stay():
  assert merge({"a": Sum(1.0, 1.0)}, {"b": Sum(2.0, 1.0)}) == {
    "a": Sum(1.0, 1.0),
    "b": Sum(2.0, 1.0),
  }


def test_rows_of_an_interrupted_attempt_are_dropped(tmp_path):
  _write(tmp_path, 0, [(step, {"loss": step / 10}) for step in (1, 2, 3)])
  _write(tmp_path, 2, [(3, {"loss": 7.0})])
  assert read_rows(tmp_path / "metrics.jsonl") == [
    {"step": 1, "loss": 0.1},
    {"step": 2, "loss": 0.2},
    {"step": 3, "loss": 7.0},
  ]


def test_a_half_written_line_is_left_out(tmp_path):
  _write(tmp_path, 0, [(1, {"loss": 0.5})])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 2, "lo')
  assert read_rows(path) == [{"step": 1, "loss": 0.5}]
  _write(tmp_path, 1, [(2, {"loss": 0.25})])
  assert read_rows(path)[1:] == [{"step": 2, "loss": 0.25}]


def test_a_damaged_line_is_named_and_kept(tmp_path):
  text = '{"step": 1, "loss": 0.5}\n{"st\n{"step": 3, "loss": 0.1}\n'
  (tmp_path / "metrics.jsonl").write_text(text)
  with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 is damaged"):
    MetricsWriter(tmp_path, start_step=1, is_active=True)
  assert (tmp_path / "metrics.jsonl").read_text() == text


def test_what_is_not_finite_is_null(tmp_path):
  _write(tmp_path, 0, [(1, {"a": math.nan, "b": math.inf, "c": 1.0})])
  assert read_rows(tmp_path / "metrics.jsonl") == [
    {"step": 1, "a": None, "b": None, "c": 1.0}
  ]


def test_other_processes_write_nothing(tmp_path):
  writer = MetricsWriter(tmp_path, start_step=0, is_active=False)
  writer.write(1, {"loss": 1.0})
  writer.close()
  assert not list(tmp_path.iterdir())
