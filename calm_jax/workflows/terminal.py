"""What is told beside results."""

import sys

import jax


def say(message: str) -> None:
  """Prints a line on stderr, of several processes on the first one."""
  if jax.process_index() == 0:
    print(message, file=sys.stderr, flush=True)
