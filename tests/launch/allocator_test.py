"""Tests launch/allocator.py."""

import os
import platform
import subprocess
import sys

import pytest

# Takes 64 MiB ten times, in a thread, as JAX does; prints the page faults.
_SCRIPT = """
import resource, sys, threading
import numpy as np
from launch import allocator

if sys.argv[1] == "keep":
  allocator.keep_memory()

def take():
  np.empty(1 << 26, np.uint8).fill(1)

def take_often():
  take()
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  for _ in range(10):
    take()
  print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=take_often)
thread.start()
thread.join()
"""


def _num_faults(word: str) -> int:
  found = subprocess.run(
    [sys.executable, "-c", _SCRIPT, word],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=True,
  )
  return int(found.stdout)


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="the heap of another C library"
)
def test_memory_that_was_given_back_is_used_again():
  num_pages = (10 << 26) // os.sysconf("SC_PAGE_SIZE")
  assert _num_faults("keep") < num_pages / 100
  # numpy asks for huge pages, where there are any: a fault for each of them.
  assert _num_faults("leave") > 2 * _num_faults("keep")
