"""Tests calm_jax/scaling/study.py."""

import json

import pytest

from calm_jax.scaling import study

from . import studies


def test_quickstart_and_its_runs_are_found(tmp_path):
  studies.write_quickstart(tmp_path)
  found = study.read_study(tmp_path)
  assert found.results["calm"]["brier_1"] == 0.1234
  assert [run.name for run in found.runs] == ["autoencoder", "calm"]
  assert [run.kind for run in found.runs] == ["autoencoder", "next vector"]
  assert found.points == []


def test_half_written_last_line_and_nulls_are_left_out(tmp_path):
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 1, "loss": 2.5, "kl": null}\n{"step": 2, "loss": 2.0}\n{"step'
  )
  [run] = study.read_study(tmp_path).runs
  assert run.rows == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]
  assert run.series("loss") == ([1, 2], [2.5, 2.0])
  assert run.series("kl") == ([], [])
  assert run.name == tmp_path.name


def test_sweep_is_found(tmp_path):
  studies.write_sweep(tmp_path)
  assert study.read_study(tmp_path).points == studies.sweep_points()


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("metrics.jsonl", '{"step": 1}\n{"st\n', "line 2 is damaged"),
    ("results.json", "", "results.json is damaged"),
    ("results.json", '{"calm": [1]}', "calm is not a JSON object"),
    (
      "results.json",
      '{"samples": [{"text": "a"}]}',
      "objects with prompt, text",
    ),
    ("results.json", '{"calm": {"a_stderr": "x"}}', "a_stderr is 'x'"),
    (
      "results.json",
      '{"autoencoder": {"std_per_dimension": 1}}',
      "std_per_dimension is not a list of numbers",
    ),
    ("table.csv", "name\na\n", "lacks family"),
  ],
)
def test_damaged_files_are_refused_in_one_line(
  tmp_path, name, content, message
):
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=message) as error:
    study.read_study(tmp_path)
  assert "\n" not in str(error.value)


def test_trade_off_is_checked(tmp_path):
  changes = {"trade_off": {"calm": [{"label": "T=1", "accuracy": 0.1}]}}
  studies.write_quickstart(tmp_path, **changes)
  with pytest.raises(ValueError, match=r"trade_off\.calm is not a list of"):
    study.read_study(tmp_path)


def test_nothing_to_report_is_said(tmp_path):
  with pytest.raises(OSError, match="has nothing to report; expected results"):
    study.read_study(tmp_path)
  with pytest.raises(OSError, match="there is no directory"):
    study.read_study(tmp_path / "absent")
  (tmp_path / "config.json").write_text(json.dumps({}))
  with pytest.raises(OSError, match="has nothing to report"):
    study.read_study(tmp_path)
