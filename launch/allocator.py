"""Lets a process on a CPU keep the memory that its steps give back."""

import ctypes
import importlib.util
import os
import sys

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_memory() -> None:
  """Has freed memory used again instead of given back to the system.

  XLA on CPUs allocates a program's temporaries anew at each call. glibc takes
  so much from the system and gives it back each time, and the system fills
  every page with zeros: a fifth of a training step. Now all of it comes from
  one heap that does not shrink.

  To be called before there are threads, which would have heaps of their own.
  Without effect where JAX may find other devices, or with another C library.
  """
  if sys.platform != "linux" or _may_have_accelerator():
    return
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:  # not glibc
    return
  mallopt(_ARENA_MAX, 1)
  mallopt(_MMAP_MAX, 0)
  mallopt(_TRIM_THRESHOLD, -1)  # never


def _may_have_accelerator() -> bool:
  """Whether JAX has a plugin for one: asked without importing it."""
  if os.environ.get("JAX_PLATFORMS") == "cpu":
    return False
  plugins = ("jax_plugins", "libtpu")
  return any(importlib.util.find_spec(name) for name in plugins)
