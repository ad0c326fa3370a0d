"""Tests calm_jax/training/trace.py."""

import jax
import jax.numpy as jnp
import pytest

from calm_jax.training.trace import TracedSteps


@pytest.fixture
def calls(monkeypatch):
  """When the profiler is started and stopped, and what is called between."""
  calls = []
  monkeypatch.setattr(jax.profiler, "start_trace", lambda _: calls.append("on"))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("off"))
  return calls


@pytest.mark.parametrize(
  ("steps", "first_step", "expected"),
  [
    (range(0), 0, [0, 1, 2, 3, 4, 5]),
    (range(2, 4), 0, [0, 1, "on", 2, 3, "off", 4, 5]),
    (range(4, 9), 0, [0, 1, 2, 3, "on", 4, 5, "off"]),  # the run ends first
    (range(2, 4), 3, ["on", 3, "off", 4, 5]),  # it was stopped at 3
    (range(2, 4), 4, [4, 5]),
  ],
)
def test_only_these_steps_are_recorded(
  calls, steps, first_step, expected, tmp_path
):
  step_fn = TracedSteps(
    lambda state, frozen, batch: (state + 1, calls.append(batch)),
    tmp_path,
    steps,
    first_step=first_step,
  )
  state = jnp.zeros(())
  for number in range(first_step, 6):
    state, _ = step_fn(state, None, number)
  step_fn.close()
  assert calls == expected


def test_a_trace_that_cannot_be_written_ends_no_run(
  calls, monkeypatch, tmp_path, capsys
):
  def fail():
    raise RuntimeError("no space left")

  monkeypatch.setattr(jax.profiler, "stop_trace", fail)
  step_fn = TracedSteps(
    lambda state, frozen, batch: (state + 1, {}),
    tmp_path / "profile",
    range(1),
    first_step=0,
  )
  state, _ = step_fn(jnp.zeros(()), None, 0)
  assert state == 1
  assert "warning: no trace is written" in capsys.readouterr().err
  (tmp_path / "file").touch()
  with pytest.raises(FileExistsError, match="file"):
    TracedSteps(None, tmp_path / "file", range(1), first_step=0)


def test_a_trace_is_written(tmp_path):
  step_fn = TracedSteps(
    lambda state, frozen, batch: (state + 1, {}),
    tmp_path,
    range(1, 2),
    first_step=0,
  )
  state = jnp.zeros(())
  for _ in range(3):
    state, _ = step_fn(state, None, None)
  assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))
