"""Tests evaluation/windows.py and the table."""

import numpy as np
import pytest

from calm_jax.evaluation.table import format_table
from calm_jax.evaluation.windows import summarise


def _columns(num_windows=40, share=0.5):
  """Windows of different sizes, with random shares of right samples."""
  generator = np.random.default_rng(0)
  count = generator.integers(5, 15, num_windows).astype(float)
  columns = {"count": count}
  for n in range(1, 5):
    part = generator.uniform(0, 2 * share**n, (3, num_windows))
    columns[f"accuracy_{n}"] = part[0] * count
    columns[f"collision_{n}"] = part[1] * count
    columns[f"accuracy_{n}_permuted"] = 0.55 * part[2] * count
  columns["energy_loss"] = generator.normal(3, 1, num_windows) * count
  columns["energy_loss_permuted"] = columns["energy_loss"] + 0.5 * count
  return columns


def test_scores_are_ratios_of_sums():
  columns = _columns()
  found, warnings = summarise(columns)
  total = {name: values.sum() for name, values in columns.items()}
  brier = [
    (2 * total[f"accuracy_{n}"] - total[f"collision_{n}"]) / total["count"]
    for n in range(1, 5)
  ]
  for n in range(4):
    assert found[f"brier_{n + 1}"] == pytest.approx(brier[n])
    control = total[f"accuracy_{n + 1}_permuted"] / total["count"]
    collision = total[f"collision_{n + 1}"] / total["count"]
    expected = 2 * control - collision
    assert found[f"brier_{n + 1}_permuted"] == pytest.approx(expected)
    difference = brier[n] - expected
    assert found[f"brier_{n + 1}_minus_permuted"] == pytest.approx(difference)
  assert found["brier_lm"] == pytest.approx(100 * np.prod(brier) ** 0.25)
  assert found["num_windows"] == 40
  assert found["num_positions"] == total["count"]
  assert warnings == []


def test_errors_are_those_of_the_windows():
  found, _ = summarise(_columns())
  # A constant difference has no error, though both of its sides have one.
  assert found["energy_loss_minus_permuted"] == pytest.approx(-0.5)
  assert found["energy_loss_minus_permuted_stderr"] < 1e-9
  assert 0.1 < found["energy_loss_stderr"] < 0.25
  assert found["brier_lm_stderr"] > 0


def test_a_cut_context_has_collisions_of_its_own():
  columns = _columns()
  for n in range(1, 5):
    columns[f"accuracy_{n}_last_chunk"] = 0.5 * columns[f"accuracy_{n}"]
    columns[f"collision_{n}_last_chunk"] = 0.25 * columns[f"collision_{n}"]
  found, _ = summarise(columns)
  total = {name: values.sum() for name, values in columns.items()}
  expected = (total["accuracy_2"] - total["collision_2"] / 4) / total["count"]
  assert found["brier_2_last_chunk"] == pytest.approx(expected)
  difference = found["brier_lm"] - found["brier_lm_last_chunk"]
  assert found["brier_lm_minus_last_chunk"] == pytest.approx(difference)
  assert found["brier_lm_minus_last_chunk_stderr"] > 0
  assert "last chunk" in format_table(found).splitlines()[0]


def test_windows_without_positions_are_no_clusters():
  columns = {name: np.append(v, 0.0) for name, v in _columns().items()}
  assert summarise(columns) == summarise(_columns())


def test_brier_lm_is_not_resolved_below_zero():
  columns = _columns()
  columns["accuracy_3"] = np.zeros(40)
  found, _ = summarise(columns)
  assert found["brier_3"] < 0
  assert found["brier_lm"] == "not resolved"
  assert found["brier_lm_stderr"] is None
  assert found["brier_lm_minus_permuted"] is None
  assert found["brier_1_stderr"] > 0


def test_a_difference_from_what_is_not_resolved_is_not_resolved():
  columns = _columns()
  columns["accuracy_3_permuted"] = np.zeros(40)
  found, _ = summarise(columns)
  assert found["brier_lm"] > 0
  assert found["brier_lm_permuted"] == "not resolved"
  assert found["brier_lm_minus_permuted"] is None
  assert found["brier_lm_minus_permuted_stderr"] is None
  assert found["brier_3_minus_permuted_stderr"] > 0


def test_warns_of_few_windows():
  found, warnings = summarise(_columns(12))
  assert "12 windows" in warnings[0]
  assert summarise(_columns(1))[0]["brier_1_stderr"] is None
  assert found["brier_1_stderr"] > 0


def test_refuses_nothing():
  with pytest.raises(ValueError, match="no position"):
    summarise({"count": np.zeros(3), "kl": np.zeros(3)})


def test_table_shows_score_control_and_difference():
  columns = _columns()
  columns["accuracy_4_permuted"] = np.zeros(40)
  found, _ = summarise(columns)
  lines = format_table(found).splitlines()
  assert lines[0].split()[-4:] == ["score", "permuted", "−", "permuted"]
  line = next(line for line in lines if line.startswith("brier_1 "))
  assert f"{found['brier_1']:.4f} ± {found['brier_1_stderr']:.4f}" in line
  assert f"{found['brier_1_minus_permuted']:.4f}" in line
  assert "not resolved" in next(x for x in lines if x.startswith("brier_lm"))
