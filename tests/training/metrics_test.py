"""Tests calm_jax/training/metrics.py."""

import errno
import math
import os

import pytest

from calm_jax import paths
from calm_jax.json_files import read_rows
from calm_jax.training.metrics import MetricsWriter
from tests.training import boards


def _write(directory, start_step, rows):
  writer = MetricsWriter(directory, start_step=start_step, is_active=True)
  for step, values in rows:
    writer.write(step, values)
  writer.close()


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
  (tmp_path / "tensorboard").touch()
  with pytest.raises(OSError, match=r"tensorboard/ of .* \(File exists\)"):
    _write(tmp_path, 0, [])
  (tmp_path / "tensorboard").unlink()
  writer = MetricsWriter(tmp_path, start_step=0, is_active=True)

  def full(*unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(paths, "append", full)
  with pytest.raises(OSError, match=r"No space left on device\); the steps"):
    writer.write(1, {"loss": 1.0})
  writer.close()


def test_rows_of_an_interrupted_attempt_are_dropped(tmp_path):
  _write(tmp_path, 0, [(step, {"loss": step / 10}) for step in (1, 2, 3)])
  _write(tmp_path, 2, [(3, {"loss": 7.0})])
  assert read_rows(tmp_path / "metrics.jsonl") == [
    {"step": 1, "loss": 0.1},
    {"step": 2, "loss": 0.2},
    {"step": 3, "loss": 7.0},
  ]


def test_tensorboard_keeps_the_same_rows_after_restarts(tmp_path):
  """Within one second, and with the row of the step that is gone on from."""
  score = lambda *steps: [(step, {"valid/loss": 1 / step}) for step in steps]
  _write(tmp_path, 0, [(5, {"loss": 2.0}), *score(10), (15, {"loss": 1.0})])
  _write(tmp_path, 10, [*score(20), (25, {"loss": 0.5})])
  _write(tmp_path, 20, [(25, {"loss": math.nan}), *score(30)])
  boards.assert_same_rows(tmp_path)
  board = boards.read_board(tmp_path / "tensorboard")
  assert [step for step, _ in board["valid/loss"]] == [10, 20, 30]
  assert board["loss"] == [(5, 2.0)]


def test_what_a_killed_process_flushed_is_in_both(tmp_path):
  first = MetricsWriter(tmp_path, start_step=0, is_active=True)
  first.write(1, {"loss": 0.5})
  first.flush()  # and the step is saved
  _write(tmp_path, 1, [(2, {"loss": 0.25})])
  boards.assert_same_rows(tmp_path)
  assert len(boards.read_board(tmp_path / "tensorboard")["loss"]) == 2
  first.close()


def test_a_step_that_is_scored_again_after_a_restart_has_one_row(tmp_path):
  _write(tmp_path, 0, [(3, {"loss": 0.5})])
  writers = []
  for _ in range(2):  # the first one is killed before it saves
    writers.append(MetricsWriter(tmp_path, start_step=3, is_active=True))
    writers[-1].write(3, {"valid/loss": 0.75})
  writers[-1].write(4, {"loss": 0.25})
  for writer in writers:
    writer.close()
  assert read_rows(tmp_path / "metrics.jsonl") == [
    {"step": 3, "loss": 0.5},
    {"step": 3, "valid/loss": 0.75},
    {"step": 4, "loss": 0.25},
  ]
  boards.assert_same_rows(tmp_path)


def test_a_clock_that_is_behind_hides_nothing(tmp_path, monkeypatch):
  _write(tmp_path, 0, [(1, {"loss": 0.5}), (2, {"loss": 0.25})])
  monkeypatch.setattr("time.time", lambda: 1_000_000_000.0)
  _write(tmp_path, 1, [(2, {"loss": 0.125})])
  boards.assert_same_rows(tmp_path)


def test_a_half_written_line_is_left_out(tmp_path):
  _write(tmp_path, 0, [(1, {"loss": 0.5})])
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 2, "lo')
  assert read_rows(path) == [{"step": 1, "loss": 0.5}]
  _write(tmp_path, 1, [(2, {"loss": 0.25})])
  assert read_rows(path)[1:] == [{"step": 2, "loss": 0.25}]


_DAMAGED_LINES = (
  b'{"st',
  b"12",
  b"\xff\xfe",
  b"{}",
  b"",
  b"\0" * 9,
  b"[" * 100_000,
  b'{"step": %s}' % (b"1" * 5000),
  b'{"step": true}',
  b'{"step": 1, "loss": NaN}',
)


@pytest.mark.parametrize("damaged", _DAMAGED_LINES)
def test_a_damaged_line_is_named_and_left_out(damaged, tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  first, last = b'{"step": 1, "loss": 0.5}\n', b'{"step": 2, "loss": 0.1}\n'
  path.write_bytes(first + damaged + b"\n" + last)
  _write(tmp_path, 2, [])
  assert path.read_bytes() == first + last
  assert "metrics.jsonl line 2" in capsys.readouterr().err
  path.write_bytes(first + damaged + b"\n" + last)
  with pytest.raises(ValueError, match=r"metrics\.jsonl line 2"):
    read_rows(path)


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


def test_many_damaged_lines_are_one_warning(tmp_path, capsys):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1, "loss": 0.5}\n' + b"x\n" * 99)
  _write(tmp_path, 1, [])
  assert read_rows(path) == [{"step": 1, "loss": 0.5}]
  (said,) = capsys.readouterr().err.splitlines()
  assert "line 2 is damaged" in said and "So are 98 lines behind it" in said
