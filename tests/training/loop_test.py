"""Tests calm_jax/training/loop.py with a step that only counts."""

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.json_files import read_rows
from calm_jax.losses.mean import Mean
from calm_jax.training.log import NonFiniteError
from calm_jax.training.loop import train
from calm_jax.training.metrics import MetricsWriter
from calm_jax.training.progress import Stopwatch
from calm_jax.training.state import TrainState
from tests.training import tiny

_TIMINGS = ("tokens_per_second", "goodput", "seconds")


class _Run:
  """Everything the loop takes, recording what happens in which order."""

  def __init__(self, directory, **changes):
    self.config = tiny.experiment(
      "token",
      **{"num_steps": 10, "log_interval": 3, "save_interval": 4} | changes,
    )
    self.directory = directory
    self.events = []
    self.saved = {}
    self.num_batches = None
    self.bad_steps = ()
    self.bad_loss = np.nan
    self.signal_at = None

  def step(self, state, frozen, batch):
    self.events.append(f"step {batch}")
    if batch == self.signal_at:
      os.kill(os.getpid(), signal.SIGTERM)
    is_bad = batch + 1 in self.bad_steps
    loss = self.bad_loss if is_bad else 1.0 / (batch + 1)
    one = jnp.ones(())
    sums = {
      "loss": Mean(loss * 3 * one, 3 * one),
      "gradient_norm": Mean(one, one),
      "skipped": Mean(is_bad * one, one),
    }
    return state._replace(step=state.step + 1), sums

  def batches(self, start):
    for number in range(start, self.num_batches or 1000):
      self.events.append(f"batch {number}")
      yield number

  def save(self, step, state, position):
    assert step == int(state.step)
    self.events.append(f"save {step}")
    self.saved[step] = {**position, "step": step}

  def wait(self):
    self.events.append("wait")

  def evaluate(self, params, step):
    self.events.append(f"evaluate {step}")
    return {"score": step / 2}

  def train(self, position=None):
    start = position["step"] if position else 0
    writer = MetricsWriter(self.directory, start_step=start, is_active=True)
    try:
      return train(
        self.config,
        TrainState(start, {}, {}),
        None,
        step_fn=self.step,
        batches_fn=self.batches,
        checkpointer=self,
        evaluators={"valid": self.evaluate},
        writer=writer,
        stopwatch=Stopwatch(),
        position=position,
      )
    finally:
      writer.close()

  def rows(self):
    return [
      {name: it for name, it in row.items() if name not in _TIMINGS}
      for row in read_rows(self.directory / "metrics.jsonl")
    ]


def test_order_is_evaluate_save_batch_step(tmp_path):
  run = _Run(tmp_path, num_steps=5, eval_interval=2, save_interval=2)
  result = run.train()
  assert (result.step, result.reason) == (5, "finished")
  events = [event for event in run.events if event != "wait"]
  assert events == [
    "batch 0",
    "step 0",
    "batch 1",
    "step 1",
    "evaluate 2",
    "save 2",
    "batch 2",
    "step 2",
    "batch 3",
    "step 3",
    "evaluate 4",
    "save 4",
    "batch 4",
    "step 4",
    "evaluate 5",
    "save 5",
  ]
  assert run.events[-1] == "wait"


def test_rows_are_means_over_the_window_and_the_last_is_written(tmp_path):
  run = _Run(tmp_path, eval_interval=5)
  run.train()
  losses = 1 / np.arange(1, 11)
  rows = {row["step"]: row for row in run.rows() if "loss" in row}
  assert list(rows) == [3, 6, 9, 10]
  for step, part in [(3, losses[:3]), (6, losses[3:6]), (10, losses[9:])]:
    np.testing.assert_allclose(rows[step]["loss"], part.mean(), rtol=1e-6)
  scores = [row for row in run.rows() if "valid/score" in row]
  assert scores == [
    {"step": 5, "valid/score": 2.5},
    {"step": 10, "valid/score": 5.0},
  ]


@pytest.mark.parametrize("stop", range(10))
def test_a_run_stopped_anywhere_writes_the_rows_of_one_that_was_not(
  stop, tmp_path
):
  whole = _Run(tmp_path / "whole", eval_interval=5)
  (tmp_path / "whole").mkdir()
  whole.train()
  first = _Run(tmp_path, eval_interval=5)
  first.signal_at = stop
  result = first.train()
  assert (result.step, result.reason) == (
    (stop + 1, "stopped") if stop < 9 else (10, "finished")
  )
  assert max(first.saved) == stop + 1
  second = _Run(tmp_path, eval_interval=5)
  second.train(first.saved[stop + 1])
  assert second.rows() == whole.rows()


def test_a_killed_run_repeats_the_rows_after_its_last_save(tmp_path):
  whole = _Run(tmp_path / "whole", eval_interval=2)
  (tmp_path / "whole").mkdir()
  whole.train()
  first = _Run(tmp_path, eval_interval=2)
  first.num_batches = 7
  first.train()
  second = _Run(tmp_path, eval_interval=2)
  second.train(first.saved[4])
  assert "evaluate 4" not in second.events
  assert second.rows() == whole.rows()


def test_a_finished_run_does_nothing_more(tmp_path):
  run = _Run(tmp_path, eval_interval=5)
  run.train()
  again = _Run(tmp_path, eval_interval=5)
  assert again.train(run.saved[10]).step == 10
  assert again.events == ["wait"]


def test_skipped_steps_are_counted_and_logged_with_their_rows(tmp_path, capsys):
  run = _Run(tmp_path)
  run.bad_steps = (2, 5, 6)
  assert run.train().reason == "finished"
  rows = run.rows()
  size = run.config.data.batch_size
  assert [row for row in rows if "skipped/loss" in row] == [
    {
      "step": step,
      "skipped/loss": None,
      "skipped/gradient_norm": 1.0,
      "skipped/first_row": (step - 1) * size,
      "skipped/num_rows": size,
    }
    for step in run.bad_steps
  ]
  means = {row["step"]: row for row in rows if "skipped_steps" in row}
  assert [means[step]["skipped_steps"] for step in (3, 6, 9, 10)] == [
    1,
    3,
    3,
    3,
  ]
  np.testing.assert_allclose(means[3]["loss"], (1 + 1 / 3) / 2, rtol=1e-6)
  np.testing.assert_allclose(means[6]["loss"], 1 / 4, rtol=1e-6)
  assert f"rows {4 * size} to {5 * size - 1} " in capsys.readouterr().err


@pytest.mark.parametrize("stop", range(10))
def test_a_stopped_run_skips_as_one_that_was_not(stop, tmp_path):
  bad_steps = (2, 3, 5, 8, 9, 10)
  runs = []
  for name in ("whole", "first", "second"):
    directory = tmp_path / ("whole" if name == "whole" else "run")
    directory.mkdir(exist_ok=True)
    runs.append(_Run(directory, max_skipped_steps=4))
    runs[-1].bad_steps = bad_steps
  whole, first, second = runs
  whole.train()
  first.signal_at = stop
  first.train()
  second.train(first.saved[stop + 1])
  assert second.rows() == whole.rows()


@pytest.mark.parametrize("last", [4, 5, 8, 10])
def test_too_many_skipped_in_a_row_end_the_run_with_what_was_reached(
  last, tmp_path
):
  run = _Run(tmp_path, max_skipped_steps=3)
  run.bad_steps = tuple(range(last - 2, last + 1))
  with pytest.raises(NonFiniteError, match=f"loss of step {last} is nan"):
    run.train()
  saved = max(run.saved)
  assert last <= saved <= last + 1  # found one step late at most
  assert run.events[-2:] == [f"save {saved}", "wait"]
  again = _Run(tmp_path, max_skipped_steps=3)
  again.bad_steps = run.bad_steps
  assert again.train(run.saved[saved]).reason == "finished"
  assert again.rows()[-1]["skipped_steps"] == 3


def test_the_end_of_the_data_is_saved(tmp_path):
  run = _Run(tmp_path, eval_interval=4)
  run.num_batches = 6
  result = run.train()
  assert (result.step, result.reason) == (6, "data ended")
  assert run.events[-3:] == ["evaluate 6", "save 6", "wait"]


def test_the_end_of_the_data_writes_what_is_not_written_yet(tmp_path):
  for num_batches, steps in ((6, [3, 6]), (7, [3, 6, 7])):
    (tmp_path / str(num_batches)).mkdir()
    run = _Run(tmp_path / str(num_batches))
    run.num_batches = num_batches
    run.train()
    rows = [row for row in run.rows() if "loss" in row]
    assert [row["step"] for row in rows] == steps
    window = range(*steps[-2:])
    mean = np.mean([1 / (number + 1) for number in window])
    np.testing.assert_allclose(rows[-1]["loss"], mean, rtol=1e-6)


def test_a_smaller_number_of_skipped_steps_still_ends_a_run(tmp_path):
  run = _Run(tmp_path, max_skipped_steps=8)
  run.bad_steps = tuple(range(2, 11))
  run.signal_at = 5
  run.train()
  again = _Run(tmp_path, max_skipped_steps=3)
  again.bad_steps = run.bad_steps
  with pytest.raises(NonFiniteError):
    again.train(run.saved[max(run.saved)])


def test_a_gradient_that_is_too_long_is_named(tmp_path):
  run = _Run(tmp_path, max_skipped_steps=2)
  run.config.optimizer.max_gradient_norm = 0.5
  run.bad_steps, run.bad_loss = (1, 2), 1.0
  with pytest.raises(
    NonFiniteError, match=r"allow_change=optimizer\.max_gradient_norm"
  ):
    run.train()


def test_the_old_signal_handler_comes_back(tmp_path):
  before = signal.getsignal(signal.SIGTERM)
  _Run(tmp_path).train()
  assert signal.getsignal(signal.SIGTERM) is before


def test_goodput_leaves_out_what_is_not_training():
  stopwatch = Stopwatch()
  stopwatch._start -= 10.0
  stopwatch._seconds["evaluation"] = 4.0
  assert stopwatch.goodput() == pytest.approx(0.6, abs=1e-3)
