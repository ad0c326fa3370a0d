"""Fixtures of tests that compile kernels for TPUs, with no TPU at hand."""

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(
  scope="module", params=["v5e:2x4", "v5p:2x2x1", "v6e:2x4"], ids=str
)
def devices(request):
  pytest.importorskip("libtpu", reason="the extra [aot] brings libtpu")
  topologies = pytest.importorskip("jax.experimental.topologies")
  topology = topologies.get_topology_desc(
    platform="tpu", topology_name=request.param
  )
  # Programs for absent devices can be written to a cache, but not read back.
  is_cached = jax.config.jax_enable_compilation_cache
  jax.config.update("jax_enable_compilation_cache", False)
  compilation_cache.reset_cache()
  yield np.array(topology.devices)
  jax.config.update("jax_enable_compilation_cache", is_cached)
  compilation_cache.reset_cache()
