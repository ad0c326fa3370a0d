"""The loop: evaluate → save → next batch → step, until the run ends.

The order matters. A state is evaluated and saved before anything else happens
to it, so the steps saved and the batches read cannot disagree: the data
position *is* the step. What the host asks of a step it asks only after the next
one has been started, so the device never waits for it. What is not finite never
gets into a state, see `train_step`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from calm_jax.config import ExperimentConfig
from calm_jax.losses.mean import Means
from calm_jax.training.log import NonFiniteError, TrainingLog
from calm_jax.training.metrics import MetricsWriter
from calm_jax.training.preemption import StopSignal
from calm_jax.training.progress import Stopwatch
from calm_jax.training.state import TrainState

StepFn = Callable[[TrainState, Any, Any], tuple[TrainState, Means]]
Evaluator = Callable[[Any, int], Mapping[str, float]]


class Saver(Protocol):
  """What the loop asks of a checkpointer."""

  def save(
    self, step: int, state: TrainState, position: dict[str, Any]
  ) -> None: ...

  def wait(self) -> None: ...


class Result(NamedTuple):
  """How a run ended."""

  state: TrainState  # saved
  step: int  # steps done
  reason: str  # "finished", "stopped" by a signal, or "data ended"


def train(
  config: ExperimentConfig,
  state: TrainState,
  frozen: Any,
  *,
  step_fn: StepFn,
  batches_fn: Callable[[int], Iterator[Any]],
  checkpointer: Saver,
  evaluators: Mapping[str, Evaluator],
  writer: MetricsWriter,
  stopwatch: Stopwatch,
  position: Mapping[str, Any] | None = None,
  name: str = "training",
  flops_fn: Callable[[], float] | None = None,
) -> Result:
  """Trains to `config.num_steps`, to a signal, or to the end of the data.

  Args:
    config: of the run.
    state: new, or restored; it is given up.
    frozen: parameters that are not trained.
    step_fn: one step; it may give up the state it gets.
    batches_fn: global batches from a step on.
    checkpointer: saves states.
    evaluators: by name, functions of (params, step) to numbers.
    writer: takes the rows of numbers.
    stopwatch: started with the process.
    position: what was saved with the restored state; None: a new run.
    name: of the progress bar.
    flops_fn: FLOPs of a step's model, for the log.

  Returns:
    The last state, which is saved, and why it is the last.

  Raises:
    NonFiniteError: if `config.max_skipped_steps` in a row were not sound, see
      `train_step`; the state, which none of them changed, is saved.
    OSError: if a checkpoint or a row cannot be written.
  """
  position = position or {"step": 0, "last_evaluation": 0}
  step = saved = position["step"]
  evaluated = position["last_evaluation"]
  num_steps, reason = config.num_steps, "finished"
  batches = None
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(StopSignal())
    log = TrainingLog(
      config,
      writer,
      stopwatch,
      start=step,
      position=position,
      name=name,
      flops_fn=flops_fn,
    )
    stack.callback(log.close)
    while True:
      is_stopping = bool(log.problem()) or stop.requested(step)
      is_last = is_stopping or step >= num_steps
      # A stopped run has seconds left to save; it evaluates when it goes on.
      if (
        config.eval_interval
        and step != evaluated
        and not is_stopping
        and (step % config.eval_interval == 0 or is_last)
      ):
        log.read()
        with stopwatch.measure("evaluation"):
          for kind, evaluate in evaluators.items():
            values = evaluate(state.params, step)
            writer.write(step, {f"{kind}/{k}": v for k, v in values.items()})
        evaluated = step
      if step != saved and (is_last or step % config.save_interval == 0):
        log.read()
        with stopwatch.measure("checkpoint"):
          writer.flush()  # a run that goes on from here writes no earlier rows
          checkpointer.save(
            step,
            state,
            {"last_evaluation": evaluated, **log.position()},
          )
        saved = step
      if is_last:
        break
      with stopwatch.measure("data"):
        if batches is None:
          batches = batches_fn(step)
        batch = next(batches, None)
      if batch is None:
        log.end(step)
        num_steps, reason = step, "data ended"
        continue
      state, means = step_fn(state, frozen, batch)
      step += 1
      log.read()
      log.put(step, means)
    with stopwatch.measure("checkpoint"):
      checkpointer.wait()
    if problem := log.problem():
      raise NonFiniteError(problem)
  if step < num_steps:
    reason = "stopped"
  return Result(state, step, reason)
