"""FLOPs of a traced function, counted from the shapes of its products.

The compiler counts the body of a loop once; here it counts for every pass. So
does what the backward pass computes again.
"""

import math
from typing import Any

import jax


def matrix_flops(jaxpr: Any) -> float:
  """Sums 2·m·k·n over all matrix products of a function on all devices.

  Args:
    jaxpr: of `jax.make_jaxpr`.

  Returns:
    FLOPs, at least: elementwise work and kernels count nothing, and of branches
    chosen by what is computed the cheapest counts. Where each platform has a
    branch of its own, that of a TPU counts.
  """
  return sum(map(_equation_flops, _inner(jaxpr).eqns))


def _equation_flops(equation: Any) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    size = math.prod(shape[axis] for axis in contracted)
    return 2.0 * size * math.prod(equation.outvars[0].aval.shape)
  if name == "pallas_call":
    return 0.0  # its products, if any, are those of one block
  if name == "cond":  # one branch runs
    branches = _possible_branches(params)
    return min(map(matrix_flops, branches), default=0.0)
  parts = [matrix_flops(inner) for inner in _functions(params)]
  times = 1
  if name == "scan":
    times = params["length"]
  elif name == "shard_map":  # inside, shapes are those of one device
    times = params["mesh"].size
  return times * sum(parts)


def _possible_branches(params: dict[str, Any]) -> list[Any]:
  """Those of a `cond` that a TPU may take."""
  branches = params["branches"]
  platforms = params.get("branches_platforms")
  if not platforms:
    return list(branches)
  for branch, names in zip(branches, platforms, strict=True):
    if names is None or "tpu" in names:  # None, the default, stands last
      return [branch]
  return []


def _functions(params: dict[str, Any]) -> list[Any]:
  leaves = jax.tree.leaves(
    list(params.values()), is_leaf=lambda it: hasattr(_inner(it), "eqns")
  )
  return [leaf for leaf in leaves if hasattr(_inner(leaf), "eqns")]


def _inner(jaxpr: Any) -> Any:
  """An open jaxpr, from a closed one too."""
  return getattr(jaxpr, "jaxpr", jaxpr)
