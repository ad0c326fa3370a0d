"""What Orbax prints of its own failures is dropped, and nothing else is."""

import functools
import sys
import types

import pytest

from calm_jax.checkpoint import orbax_noise


@types.coroutine
def _forever():
  while True:
    yield


async def _read():
  """As Orbax reads a part of an array."""
  try:
    await _forever()
  except BaseException as error:
    raise RuntimeError("cannot read") from error


async def _other():
  try:
    await _forever()
  finally:
    raise RuntimeError("something else")


@pytest.mark.parametrize(("work", "num_heard"), [(_read, 0), (_other, 1)])
def test_only_reads_that_are_thrown_away_are_silent(
  monkeypatch, work, num_heard
):
  heard = []
  hook = functools.partial(orbax_noise._drop_late_reads, heard.append)
  monkeypatch.setattr(sys, "unraisablehook", hook)
  coroutine = work()
  coroutine.send(None)
  del coroutine
  assert len(heard) == num_heard
