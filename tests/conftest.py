"""Eight virtual CPU devices, and broadcasting between ranks is an error."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# Tests spend their time compiling small programs, not running them.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
  ]
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

# Programs compiled once are read back in the next run.
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

_MAX_MAPS = 20_000  # of the 65 530 memory maps that Linux gives a process


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
  """Every compiled program keeps some maps until it is dropped."""
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > _MAX_MAPS:
    jax.clear_caches()
