"""What the devices do during a few steps, for XProf to show."""

import sys
from typing import Any

import jax
from etils import epath

from calm_jax.losses.mean import Means
from calm_jax.training.loop import StepFn
from calm_jax.training.state import TrainState


class TracedSteps:
  """A step function that records a trace of some of its steps.

  Steps are numbered by those done before them, from 0. XProf, TensorBoard's
  profiler, reads the directory `plugins/profile` that is written.
  """

  def __init__(
    self,
    step_fn: StepFn,
    directory: epath.PathLike,
    steps: range,
    *,
    first_step: int,
  ):
    """Wraps a step function.

    Args:
      step_fn: takes state, frozen parameters and batch.
      directory: for the trace.
      steps: to record.
      first_step: number of the first call.

    Raises:
      OSError: if there can be no such directory.
    """
    if steps:
      epath.Path(directory).mkdir(parents=True, exist_ok=True)
    self._step_fn = step_fn
    self._directory = directory
    self._steps = steps
    self._next = first_step
    self._is_recording = False

  def __call__(
    self, state: TrainState, frozen: Any, batch: Any
  ) -> tuple[TrainState, Means]:
    if self._next in self._steps and not self._is_recording:
      jax.block_until_ready(state)  # nothing of earlier steps
      jax.profiler.start_trace(str(self._directory))
      self._is_recording = True
    number, self._next = self._next, self._next + 1
    with jax.profiler.StepTraceAnnotation("train", step_num=number):
      state, means = self._step_fn(state, frozen, batch)
    if self._is_recording and self._next not in self._steps:
      jax.block_until_ready(state)
      self.close()
    return state, means

  def close(self) -> None:
    """Writes what is recorded, if the run ended before the last such step.

    A trace that cannot be written is no reason to lose a run.
    """
    if not self._is_recording:
      return
    self._is_recording = False
    try:
      jax.profiler.stop_trace()
    except Exception as error:  # of any kind: the profiler's own, in C++
      if jax.process_index() == 0:
        print(
          f"warning: no trace is written to {self._directory}: {error}",
          file=sys.stderr,
          flush=True,
        )
