"""XLA's flags with which the programs of tests are compiled soon.

Tests spend their time compiling small programs, not running them. The emitters
of fusions are newer than the others and take half of that time; from jax 0.11
on there are no others. The commands of the pages run with XLA's own choice.
"""

import importlib.metadata

_MINOR = tuple(map(int, importlib.metadata.version("jax").split(".")[:2]))

QUICK_FLAGS = (
  "--xla_backend_optimization_level=0",
  *(["--xla_cpu_use_fusion_emitters=false"] if _MINOR < (0, 11) else []),
)
