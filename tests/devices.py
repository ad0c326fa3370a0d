"""What marks a test that says something of a GPU or a TPU, see conftest.py."""

import pytest


def on_devices(test):
  """Runs a test on CPUs with all others, and by -m gpu or -m tpu on those."""
  return pytest.mark.gpu(pytest.mark.tpu(test))
