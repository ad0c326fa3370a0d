"""Flags of runs over several processes, one on each host.

On Cloud TPU, GKE and SLURM, --distributed finds the other processes by itself.
Elsewhere every process is told where process 0 listens, how many there are and
which one it is, by flags or by the variables JAX_COORDINATOR_ADDRESS,
JAX_NUM_PROCESSES and JAX_PROCESS_ID.
"""

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator

from absl import flags

from launch import entry, native_errors

# What a collective, a barrier or the coordination service raises when a
# process of the run has gone.
_LOST = re.compile(
  r"gloo|coordination|heartbeat|barrier|UNAVAILABLE|DEADLINE_EXCEEDED|"
  r"connection (closed|reset)|preempted",
  re.IGNORECASE,
)

# What JAX reads to find the processes of a SLURM step.
_SLURM = (
  "SLURM_JOB_ID",
  "SLURM_STEP_NODELIST",
  "SLURM_NTASKS",
  "SLURM_PROCID",
  "SLURM_LOCALID",
)

# So long process 0 stays for the others after an error that all may have.
_GRACE_SECONDS = 3.0

_DISTRIBUTED = flags.DEFINE_bool(
  "distributed", False, "Find the other processes of the cluster."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address", None, "HOST:PORT where process 0 listens."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes", None, "Processes of the run.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "This process, from 0.", lower_bound=0
)
_JOIN_SECONDS = flags.DEFINE_integer(
  "join_seconds", 300, "Wait so long for all processes to start.", lower_bound=1
)
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
  "heartbeat_seconds",
  None,
  "After so long without a sign of another process all end; jax's default,"
  " 100, if absent.",
  lower_bound=1,
)
_SHUTDOWN_SECONDS = flags.DEFINE_integer(
  "shutdown_seconds",
  None,
  "Wait so long at the end for the other processes; jax's default, 300, if"
  " absent.",
  lower_bound=1,
)


@contextlib.contextmanager
def joined() -> Iterator[None]:
  """Within it this process is one of those that flags or environment name.

  One that fails leaves at once. Left to itself, JAX would wait at exit for the
  others, which wait for this one. If another one was lost, that is the message,
  and not what a collective says of it.

  Raises:
    ValueError: if only a part of what is needed is given.
  """
  import jax  # see entry: --help is there at once

  _initialize()
  try:
    yield
  except Exception as error:
    if not jax.distributed.is_initialized():
      raise
    if isinstance(error, RuntimeError | OSError) and _LOST.search(str(error)):
      native_errors.report_loss()
    elif entry.is_expected(error):
      print(f"error: {entry.message(error)}", file=sys.stderr, flush=True)
      if jax.process_index() == 0:
        time.sleep(_GRACE_SECONDS)
    else:
      traceback.print_exc()
    sys.stderr.flush()
    os._exit(1)


def is_asked() -> bool:
  """Whether flags name other processes."""
  flags_given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  return _DISTRIBUTED.value or any(it is not None for it in flags_given)


def _initialize() -> None:
  address = _value(_COORDINATOR.value, "JAX_COORDINATOR_ADDRESS", str)
  count = _value(_NUM_PROCESSES.value, "JAX_NUM_PROCESSES", int)
  index = _value(_PROCESS_ID.value, "JAX_PROCESS_ID", int)
  given = {
    "coordinator_address": address,
    "num_processes": count,
    "process_id": index,
  }
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given) and not _DISTRIBUTED.value:
    return
  if missing and not _DISTRIBUTED.value:
    raise ValueError(
      f"a run of several processes also needs --{' and --'.join(missing)}."
    )
  if not missing and index >= count:
    raise ValueError(
      f"process_id is {index} of {count} processes; they are numbered 0 to"
      f" {count - 1}."
    )
  # Without it, Orbax meets in collectives, which some backends give up early.
  flags.FLAGS["experimental_orbax_use_distributed_barrier"].value = True
  name = "this process" if missing else f"process {index} of {count}"
  native_errors.explain(name)
  options = {
    "initialization_timeout": _JOIN_SECONDS.value,
    "heartbeat_timeout_seconds": _HEARTBEAT_SECONDS.value,
    "shutdown_timeout_seconds": _SHUTDOWN_SECONDS.value,
  }
  options = {name: it for name, it in options.items() if it is not None}
  if address is None:
    _check_slurm()
  import jax

  try:
    jax.distributed.initialize(address, count, index, **options)
  except ValueError as error:
    # Raised before anything is joined, of what the environment lacks.
    raise ValueError(_explain_missing(str(error), missing)) from error
  except RuntimeError as error:
    raise ValueError(f"cannot join the other processes: {error}") from error


def _check_slurm() -> None:
  """Refuses numbers and hosts that JAX would take from SLURM and cannot."""
  if not all(name in os.environ for name in _SLURM):
    return
  for name in _SLURM:
    value = os.environ[name]
    is_host = name == "SLURM_STEP_NODELIST"
    if not (value if is_host else value.isdecimal()):
      raise ValueError(
        f"{name} is {value!r}; {'a host' if is_host else 'a number'} was"
        " expected, as srun sets it."
      )


def _explain_missing(message: str, missing: list[str]) -> str:
  names = " and ".join(f"--{name}" for name in missing)
  found = [name for name in _SLURM if name in os.environ]
  if found and len(found) < len(_SLURM):
    absent = [name for name in _SLURM if name not in os.environ]
    return (
      f"--distributed finds {found[0]} and not {' or '.join(absent)}, and so no"
      f" address of process 0; start with srun, or give {names}."
    )
  return (
    f"--distributed finds no cluster it knows ({message.rstrip('.')}); give"
    f" {names}."
  )


def _value(flag: object, variable: str, kind: type) -> object:
  """The flag, or else what the environment says."""
  if flag is not None or variable not in os.environ:
    return flag
  try:
    return kind(os.environ[variable])
  except ValueError:
    raise ValueError(
      f"{variable} is {os.environ[variable]!r}; it should be of type"
      f" {kind.__name__}."
    ) from None
