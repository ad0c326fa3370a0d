"""Puts the end of a run that lost a process into one line.

When a process is lost, JAX ends the others from C++, with a page of addresses
that no handler in Python can catch. So what C++ prints is read on its way, by a
process of its own, because the one that prints it is about to end.
"""

import os
import re
import subprocess
import sys

_LOST = b"JAX distributed service detected fatal errors"
# What comes before the next one belongs to it.
_LINE_START = re.compile(rb"[IWEF]\d{4} |\[Gloo\]")
_SAYS_THE_SAME = re.compile(
  rb"coordination_service|preemption_sync_manager|^\[Gloo\] Rank"
)


def report_loss() -> None:
  """Says that a process was lost, unless C++ has said so already."""
  os.write(2, _LOST + b"\n")


def explain(name: str) -> None:
  """From now on, what C++ prints passes through a filter to stderr.

  Args:
    name: of this process, for the message.
  """
  output, terminal = os.dup(1), os.dup(2)
  sys.stdout.flush()
  reader = subprocess.Popen(
    [sys.executable, "-S", __file__, name],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    stderr=terminal,
    start_new_session=True,  # Ctrl-C is for the process that it listens to
  )
  for number in (1, 2):
    os.dup2(reader.stdin.fileno(), number)
  reader.stdin.close()
  reader.returncode = 0  # it outlives this process, which need not wait
  sys.stdout = os.fdopen(output, "w")
  sys.stderr = os.fdopen(terminal, "w", buffering=1)


def _filter(name: str) -> None:
  """Copies stdin to stderr, but for how a lost process is told."""
  is_dropped = has_ended = False
  for line in sys.stdin.buffer:
    if _LOST in line and not has_ended:
      has_ended = True
      print(
        "\n"  # a progress bar may have left its line open
        f"error: {name} ends, because another one was lost or did not come;"
        " start all of them again to go on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
      )
    if _LINE_START.match(line):
      is_dropped = bool(_SAYS_THE_SAME.search(line))
    if not (has_ended or is_dropped):
      sys.stderr.buffer.write(line)
      sys.stderr.buffer.flush()


if __name__ == "__main__":
  _filter(sys.argv[1])
