"""XLA's flags for tests, which compile small programs and hardly run them."""

import importlib.metadata

# The commands of the pages get this alone, and so XLA's own emitters.
UNOPTIMIZED = "--xla_backend_optimization_level=0"
_JAX = tuple(map(int, importlib.metadata.version("jax").split(".")[:2]))


def xla_flags(num_devices: int) -> str:
  """So many CPU devices, and little time spent on compiling for them."""
  flags = [
    f"--xla_force_host_platform_device_count={num_devices}",
    UNOPTIMIZED,
  ]
  if _JAX < (0, 11):
    # The newer emitters of fusions take half of the time that is left; from
    # jax 0.11 on there are no others, and the flag is an error.
    flags.append("--xla_cpu_use_fusion_emitters=false")
  return " ".join(flags)
