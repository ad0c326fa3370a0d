"""Reads the numbers of each step one step late, and writes their means."""

import math
from collections.abc import Mapping

import jax

from calm_jax.config import ExperimentConfig
from calm_jax.losses.mean import Mean, Means, compute, merge
from calm_jax.training.metrics import MetricsWriter
from calm_jax.training.progress import ProgressBar, Stopwatch


class NonFiniteError(ValueError):
  """The loss or its gradient is infinite or not a number."""


class TrainingLog:
  """Means over `log_interval` steps, to the writer and the progress bar.

  A window that a save cuts is part of what is saved, so the rows of a run that
  was interrupted are those of one that was not, but for the timings in them.
  """

  def __init__(
    self,
    config: ExperimentConfig,
    writer: MetricsWriter,
    stopwatch: Stopwatch,
    *,
    start: int,
    window: Mapping[str, list[float]],
    name: str,
  ):
    """Starts to log.

    Args:
      config: of the run.
      writer: takes the rows.
      stopwatch: for tokens/s and goodput.
      start: steps done.
      window: from `window` when the state was saved; empty for a new run.
      name: of the progress bar.
    """
    self._config = config
    self._writer = writer
    self._stopwatch = stopwatch
    self._means: dict[str, Mean] = {
      key: Mean(*values) for key, values in window.items()
    }
    self._unread: tuple[int, Means] | None = None
    self._num_steps = 0  # of this process since the last row
    self._seconds = stopwatch.training()
    self._bar = ProgressBar(
      name, config.num_steps, start, is_active=jax.process_index() == 0
    )

  def put(self, step: int, means: Means) -> None:
    """Takes the means of a step, on the device, that leads to `step`."""
    self._unread = step, means

  def read(self) -> None:
    """Waits for the step put last and logs it.

    Raises:
      NonFiniteError: if its loss or gradient is not finite.
      OSError: if a row cannot be written.
    """
    if self._unread is None:
      return
    (step, means), self._unread = self._unread, None
    means = {
      name: Mean(float(item.total), float(item.count))
      for name, item in jax.device_get(dict(means)).items()
    }
    loss, norm = means["loss"].total, means["gradient_norm"].total
    if not (math.isfinite(loss) and math.isfinite(norm)):
      raise NonFiniteError(
        f"the loss of step {step} is {compute(means)['loss']} and its gradient"
        f" norm {norm}; the run stops and nothing of this step is saved. Lower"
        " optimizer.learning_rate or clip_norm, or look at the data there."
      )
    self._means = merge(self._means, means)
    self._num_steps += 1
    self._bar.advance()
    config = self._config
    if step % config.log_interval == 0 or step == config.num_steps:
      self._write(step)

  def window(self) -> dict[str, list[float]]:
    """What was read since the last row, for JSON."""
    return {name: list(item) for name, item in self._means.items()}

  def close(self) -> None:
    self._bar.close()

  def _write(self, step: int) -> None:
    data = self._config.data
    seconds = self._stopwatch.training()
    num_tokens = self._num_steps * data.batch_size * data.row_length
    means = compute(self._means)
    timings = {
      "tokens_per_second": num_tokens / max(seconds - self._seconds, 1e-9),
      "goodput": self._stopwatch.goodput(),
      "seconds": self._stopwatch.total(),
    }
    self._writer.write(step, {**means, **timings})
    self._bar.show(means.get("loss", 0.0), timings["tokens_per_second"])
    self._means, self._num_steps, self._seconds = {}, 0, seconds
