"""Fixtures of tests that compile kernels for TPUs, with no TPU at hand."""

import numpy as np
import pytest

from tests.topologies import absent_devices, no_cache


@pytest.fixture(
  scope="module", params=["v5e:2x4", "v5p:2x2x1", "v6e:2x4"], ids=str
)
def devices(request):
  devices = absent_devices(request.param)
  with no_cache():
    yield np.array(devices)
