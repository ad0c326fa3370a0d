"""Devices of TPU slices to compile for, with no TPU at hand."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


def absent_devices(name: str, **options: Any) -> list[Any]:
  """Those of a slice such as v5e:2x4; skips where libtpu is missing."""
  pytest.importorskip("libtpu", reason="the extra [aot] brings libtpu")
  topologies = pytest.importorskip("jax.experimental.topologies")
  return topologies.get_topology_desc(
    platform="tpu", topology_name=name, **options
  ).devices


@contextlib.contextmanager
def no_cache() -> Iterator[None]:
  """Programs for absent devices can be written to a cache, but not read."""
  is_cached = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()
  yield
  jax.config.update("jax_enable_compilation_cache", is_cached)
  compilation_cache.reset_cache()
