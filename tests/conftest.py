"""Where tests run: on eight virtual CPU devices, or on a GPU or TPU.

Tests that bear the markers gpu and tpu say something of a device. They run on
CPUs with all others, and on a device by `python -m pytest -m gpu` or `-m tpu`,
which skips them where there is none.
"""

import gc
import os
import pathlib
import re

import pytest

from tests.quick_compiling import xla_flags

_DEVICES = pytest.StashKey[set[str]]()


def pytest_configure(config):
  """Before any test imports jax, which reads the environment."""
  expression = config.getoption("markexpr")
  devices = set(re.findall(r"(?<!not )\b(?:gpu|tpu)\b", expression))
  config.stash[_DEVICES] = devices
  # Tracing makes objects by the million, few of which wait for the collector.
  gc.set_threshold(20_000, 10, 10)
  if not devices:
    _stay_on_cpus()
  import jax

  # Programs compiled once are read back in the next run.
  cache = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
  jax.config.update("jax_compilation_cache_dir", str(cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _stay_on_cpus():
  """Eight virtual devices, and broadcasting between ranks is an error."""
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  # Compiling for TPUs touches none, and several processes may do it at once.
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  given = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = f"{given} {xla_flags(8)}"
  import jax

  # What else is loaded with this file may have imported jax before.
  jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
  jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(config, items):
  """A driver's warning is not what a test on a device is about."""
  if config.stash[_DEVICES]:
    for item in items:
      item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_runtest_setup(item):
  devices = item.config.stash[_DEVICES]
  if not devices:
    return
  import jax

  try:
    found = jax.default_backend()
  except RuntimeError as error:  # of a TPU library without a TPU
    found = str(error)
  if found not in devices:
    pytest.skip(f"needs a {' or '.join(sorted(devices)).upper()}; jax: {found}")


_MAX_MAPS = 20_000  # of the 65 530 memory maps that Linux gives a process


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
  """Every compiled program keeps some maps until it is dropped."""
  yield
  import jax

  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > _MAX_MAPS:
    jax.clear_caches()
    gc.collect()
