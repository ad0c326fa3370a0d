"""Adds up the numbers of steps on the device, and writes their means."""

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from calm_jax.config import ExperimentConfig
from calm_jax.losses.mean import Mean, Means, compute, merge
from calm_jax.training.metrics import MetricsWriter
from calm_jax.training.peak import Speed
from calm_jax.training.progress import ProgressBar, Stopwatch


class NonFiniteError(ValueError):
  """Too many steps in a row were skipped, see `train_step`."""


class TrainingLog:
  """Means over `log_interval` steps, to the writer and the progress bar.

  Of each step the host reads one number, whether it was skipped, once the next
  one has been started. The others are added up on the device and read when they
  are written. A window that a save cuts is part of what is saved, so the rows
  of a run that was interrupted are those of one that was not, but for the
  timings in them.
  """

  def __init__(
    self,
    config: ExperimentConfig,
    writer: MetricsWriter,
    stopwatch: Stopwatch,
    *,
    start: int,
    position: Mapping[str, Any],
    name: str,
    flops_fn: Callable[[], float] | None = None,
  ):
    """Starts to log.

    Args:
      config: of the run.
      writer: takes the rows.
      stopwatch: for tokens/s and goodput.
      start: steps done.
      position: from `position` when the state was saved; empty for a new run.
      name: of the progress bar.
      flops_fn: FLOPs of a step's model; asked on devices of known speed.
    """
    self._speed = Speed(flops_fn)
    self._config = config
    self._writer = writer
    self._stopwatch = stopwatch
    self._sums: Means = {
      key: Mean(*values) for key, values in position.get("window", {}).items()
    }
    self._num_skipped = position.get("num_skipped", 0)
    self._num_in_a_row = position.get("num_skipped_in_a_row", 0)
    self._problem = ""
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
      OSError: if a row cannot be written.
    """
    if self._unread is None:
      return
    (step, means), self._unread = self._unread, None
    if float(means["skipped"].total):
      self._skip(step, means)
    else:
      self._num_in_a_row = 0
      means = {name: it for name, it in means.items() if name != "skipped"}
      self._sums = _add(self._sums, means) if self._sums else means
    self._num_steps += 1
    self._bar.advance()
    config = self._config
    if config.is_logged(step):
      self._write(step)

  def end(self, step: int) -> None:
    """Writes what the steps since the last row were, if the data has ended."""
    self.read()
    if self._sums:
      self._write(step)

  def problem(self) -> str:
    """Why the run cannot go on, if too many steps in a row were skipped."""
    return self._problem

  def position(self) -> dict[str, Any]:
    """What belongs to the state when it is saved, for JSON."""
    return {
      "window": {name: list(it) for name, it in _on_host(self._sums).items()},
      "num_skipped": self._num_skipped,
      # A run that ends for them goes on with new patience.
      "num_skipped_in_a_row": 0 if self._problem else self._num_in_a_row,
    }

  def close(self) -> None:
    self._bar.close()

  def _skip(self, step: int, means: Means) -> None:
    self._num_skipped += 1
    self._num_in_a_row += 1
    found = compute(_on_host({k: means[k] for k in ("loss", "gradient_norm")}))
    size = self._config.data.batch_size
    first_row = (step - 1) * size
    loss, norm = found.get("loss", 0.0), found["gradient_norm"]
    what = f"the loss of step {step} is {loss:g} and its gradient norm {norm:g}"
    most = self._config.optimizer.max_gradient_norm
    field, advice = "learning_rate", "go on with a lower rate"
    if math.isfinite(loss) and math.isfinite(norm):
      if most and norm > most:
        what += f", above optimizer.max_gradient_norm {most:g}"
        field, advice = "max_gradient_norm", "let gradients be longer"
      else:
        what += ", but the update is not finite"
    if (
      self._num_in_a_row >= self._config.max_skipped_steps and not self._problem
    ):
      self._problem = (
        f"{what}; so {self._num_in_a_row} steps in a row are skipped"
        " (max_skipped_steps), and what was reached before them is saved. Look"
        f" at the data there, or {advice}: --config.optimizer.{field} with"
        f" --allow_change=optimizer.{field}."
      )
    self._writer.write(
      step,
      {
        "skipped/loss": loss,
        "skipped/gradient_norm": norm,
        "skipped/first_row": first_row,
        "skipped/num_rows": size,
      },
    )
    if jax.process_index() == 0:
      print(
        f"warning: {what}; it is skipped, with the rows"
        f" {first_row} to {first_row + size - 1} of the data in training order"
        f" ({self._num_in_a_row} in a row, {self._num_skipped} in all).",
        file=sys.stderr,
        flush=True,
      )

  def _write(self, step: int) -> None:
    data = self._config.data
    seconds = self._stopwatch.training()
    num_tokens = self._num_steps * data.batch_size * data.row_length
    means = compute(_on_host(self._sums))
    timings = {
      "tokens_per_second": num_tokens / max(seconds - self._seconds, 1e-9),
      "goodput": self._stopwatch.goodput(),
      "seconds": self._stopwatch.total(),
    }
    timings |= self._speed.measure(self._num_steps, seconds - self._seconds)
    counts = {"skipped_steps": self._num_skipped}
    self._writer.write(step, {**means, **counts, **timings})
    self._bar.show(means.get("loss", math.nan), timings["tokens_per_second"])
    self._sums, self._num_steps, self._seconds = {}, 0, seconds


@jax.jit
def _add(sums: Means, means: Means) -> Means:
  return merge(sums, means)


def _on_host(means: Means) -> Means:
  return {
    name: Mean(float(it.total), float(it.count))
    for name, it in jax.device_get(dict(means)).items()
  }
