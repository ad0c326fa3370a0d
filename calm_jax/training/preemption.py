"""A request to stop, seen by all processes at the same step."""

import signal

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """Within it, SIGTERM asks the run to save and stop instead of ending it."""

  def __init__(self):
    self._is_requested = False
    self._previous = None

  def __enter__(self) -> "StopSignal":
    # With several processes JAX's own service catches the signal of any of
    # them and agrees on a step; a handler here would take it away.
    if jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *unused_error) -> None:
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def requested(self, step: int) -> bool:
    """Whether to stop at this step; all processes ask at every step."""
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self._is_requested

  def _handle(self, *unused_arguments) -> None:
    self._is_requested = True
