"""Where the time of a run goes, and the bar that shows it."""

import collections
import contextlib
import sys
import time
from collections.abc import Iterator

import tqdm


class Stopwatch:
  """Seconds by activity; what no activity claims is training itself."""

  def __init__(self):
    self._start = time.monotonic()
    self._seconds: dict[str, float] = collections.defaultdict(float)

  @contextlib.contextmanager
  def measure(self, activity: str) -> Iterator[None]:
    """Adds the time within to an activity other than training."""
    start = time.monotonic()
    try:
      yield
    finally:
      self._seconds[activity] += time.monotonic() - start

  def total(self) -> float:
    """Seconds since the stopwatch was made."""
    return time.monotonic() - self._start

  def training(self) -> float:
    """Seconds that no other activity took."""
    return self.total() - sum(self._seconds.values())

  def goodput(self) -> float:
    """Share of the seconds that went into training, 0 to 1."""
    return self.training() / max(self.total(), 1e-9)


class ProgressBar:
  """A bar on stderr with loss, tokens/s and time left; one process shows it."""

  def __init__(self, name: str, num_steps: int, step: int, *, is_active: bool):
    """Shows the bar.

    Args:
      name: in front of it.
      num_steps: at its end.
      step: steps done.
      is_active: False: nothing is shown.
    """
    seconds = 0.2 if sys.stderr.isatty() else 30.0  # a log file takes less
    self._bar = tqdm.tqdm(
      desc=name,
      total=num_steps,
      initial=step,
      unit="step",
      mininterval=seconds,
      maxinterval=2 * seconds,
      dynamic_ncols=True,
      disable=not is_active,
    )

  def advance(self) -> None:
    """One step more is done."""
    self._bar.update(1)

  def show(self, loss: float, tokens_per_second: float) -> None:
    """Puts numbers behind the bar."""
    self._bar.set_postfix_str(
      f"loss {loss:.4g}, {tokens_per_second:,.0f} tokens/s", refresh=False
    )

  def close(self) -> None:
    self._bar.close()
