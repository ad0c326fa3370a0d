"""What the processes of a run agree on before they compute together."""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

# A lost process is noticed by its missing heartbeats, long before; a trainer
# that is waited for may take its time.
_LIMIT_MS = 7 * 24 * 3600 * 1000

_T = TypeVar("_T")

_meetings = itertools.count()  # a barrier is used once


def meet(name: str) -> None:
  """Waits for all other processes, which call it in the same order.

  Programs compile at different speeds on different hosts, and a collective that
  waits for its peers gives up after seconds on some backends. This barrier is
  one of the coordination service: no device takes part in it.
  """
  barrier = ocp.multihost.get_barrier_sync_fn()  # does nothing for one process
  barrier(key=f"{name} {next(_meetings)}", timeout_ms=_LIMIT_MS)


class OtherProcessError(ValueError):
  """What all processes do together failed on another one."""


def together(work_fn: Callable[[], _T]) -> _T:
  """Does the same on all processes, and fails on all if it fails on one.

  Args:
    work_fn: takes part in nothing that waits for the other processes.

  Returns:
    What it returns here.

  Raises:
    Exception: what it raised here.
    OtherProcessError: if it raised on another process alone.
  """
  if jax.process_count() == 1:
    return work_fn()
  result = problem = None
  try:
    result = work_fn()
  except Exception as error:
    problem = error
  if all_say(problem is None):
    return result
  if problem is not None:
    raise problem
  raise OtherProcessError("another process failed; its message says why.")


def first_says(is_true: bool) -> bool:
  """What process 0 found, on all processes."""
  return bool(_told(is_true))


def first_finds(find_fn: Callable[[], int]) -> int:
  """A number that process 0 finds, on all processes.

  Raises:
    Exception: what `find_fn` raises there.
    OtherProcessError: then, on the others.
  """
  return _told(together(lambda: find_fn() if jax.process_index() == 0 else 0))


def first_lists(find_fn: Callable[[], Sequence[int]]) -> list[int]:
  """Numbers that process 0 finds, on all processes; see `first_finds`."""
  found = together(lambda: find_fn() if jax.process_index() == 0 else [])
  count = _told(len(found))
  return [_told(found[i] if i < len(found) else 0) for i in range(count)]


def _told(number: int) -> int:
  """The number that process 0 has."""
  if jax.process_count() == 1:
    return int(number)
  meet("told")
  return int(multihost_utils.broadcast_one_to_all(np.array(int(number))))


def all_say(is_true: bool) -> bool:
  """Whether all processes found it."""
  if jax.process_count() == 1:
    return is_true
  meet("all_say")
  return bool(multihost_utils.process_allgather(np.array(is_true)).all())
