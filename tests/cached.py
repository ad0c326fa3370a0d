"""Helpers that compute once what several tests share."""

import concurrent.futures
import functools


def cached(function):
  """`functools.cache`, whoever calls first.

  The first caller may be tracing or under a mesh, and its tracers or shardings
  would then stay for the tests that follow. JAX keeps both to one thread, so
  the value is computed in a thread of its own.
  """

  @functools.cache
  @functools.wraps(function)
  def compute(*args, **kwargs):
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
      return executor.submit(function, *args, **kwargs).result()

  return compute
