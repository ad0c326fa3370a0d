"""Which parameters a model only ever reads in its compute dtype.

A bfloat16 model rounds most of its float32 parameters before each product. For
evaluation and generation they can as well be kept rounded, which halves what
decoding reads and changes no bit of a result. What is read in float32, such as
the head's last Linear, the posterior and norms, stays as it is. The program
itself says which is which.
"""

import collections
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from calm_jax.config import AutoencoderConfig, ExperimentConfig, ModelConfig
from calm_jax.families.family import Work
from calm_jax.families.table import build_model, family_of, param_shapes
from calm_jax.randomness import root_key

# What gives out the numbers that it takes, in another order or some of them.
_MOVES = (
  *("broadcast_in_dim", "copy", "dynamic_slice", "gather", "reshape"),
  *("select_n", "slice", "squeeze", "transpose"),
)


def round_params(
  model: ModelConfig, autoencoder: AutoencoderConfig | None, params: Any
) -> Any:
  """Keeps in the compute dtype what the model only reads so.

  Args:
    model: resolved; whose parameters they are.
    autoencoder: of a next-vector model, else None.
    params: float32.

  Returns:
    The tree, with some of its arrays in `model.dtype`.
  """
  if model.dtype == "float32":
    return params
  return jax.tree.map(
    lambda x, is_rounded: x.astype(model.dtype) if is_rounded else x,
    params,
    reads_rounded(model, autoencoder),
  )


def round_run(
  config: ExperimentConfig, params: Any, autoencoder: Any
) -> tuple[Any, Any]:
  """`round_params` for a model and, unless it is None, its autoencoder."""
  if autoencoder is not None:
    autoencoder = round_params(config.autoencoder, None, autoencoder)
  return round_params(config.model, config.autoencoder, params), autoencoder


@functools.lru_cache(maxsize=16)
def reads_rounded(
  model: ModelConfig, autoencoder: AutoencoderConfig | None
) -> Any:
  """For each parameter whether `model.dtype` is all that is read of it.

  Args:
    model: resolved.
    autoencoder: of a next-vector model, else None.

  Returns:
    A tree of bool like the parameters.
  """
  family = family_of(model)
  if model.predicts:
    work = family.generation_work(model, autoencoder, 2, 2)
  else:
    work = family.training_work(model, None, 2)
  tree = jax.tree.structure(param_shapes(build_model(model)))
  found = [
    _reads_of_work(part) for part in work.values() if part.config == model
  ]
  return tree.unflatten(
    [
      # What no part reads is left as it is: another part may.
      any(it is not None for it in reads) and False not in reads
      for reads in zip(*found, strict=True)
    ]
  )


def _reads_of_work(work: Work) -> list[bool | None]:
  """For each parameter whether it is only read rounded; None: not read."""
  module = build_model(work.config)

  def call(params: Any) -> Any:
    return module.apply({"params": params}, *arguments, method=work.method)

  zeros = lambda x: root_key(0) if _is_key(x) else jnp.zeros((), x.dtype)
  arguments = jax.tree.map(
    lambda x: jnp.broadcast_to(zeros(x), x.shape), work.arguments
  )
  traced = jax.make_jaxpr(call)(param_shapes(module))
  used = {
    variable
    for equation in traced.jaxpr.eqns
    for variable in equation.invars
    if not isinstance(variable, Literal)
  }
  reads = _reads(traced.jaxpr, jnp.dtype(work.config.dtype))
  return [
    is_rounded if variable in used else None
    for variable, is_rounded in zip(traced.jaxpr.invars, reads, strict=True)
  ]


def _is_key(x: Any) -> bool:
  return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _reads(
  jaxpr: Any, dtype: jnp.dtype, results: Sequence[bool] = ()
) -> list[bool]:
  """For each argument of a program whether it is rounded wherever it is read.

  Args:
    jaxpr: of the program.
    dtype: rounded to.
    results: for each result whether that is; none of them by default.
  """
  results = results or [False] * len(jaxpr.outvars)
  kept = {
    variable
    for variable, is_fine in zip(jaxpr.outvars, results, strict=True)
    if not is_fine and not isinstance(variable, Literal)
  }
  uses = collections.defaultdict(list)
  for equation in jaxpr.eqns:
    for index, variable in enumerate(equation.invars):
      if not isinstance(variable, Literal):
        uses[variable].append((equation, index))

  def is_rounded(variable: Any) -> bool:
    return variable not in kept and all(
      is_rounded_by(*use) for use in uses[variable]
    )

  def is_rounded_by(equation: Any, index: int) -> bool:
    name, params = equation.primitive.name, equation.params
    if name == "convert_element_type":
      return params["new_dtype"] == dtype
    if name in _MOVES:
      return all(map(is_rounded, equation.outvars))
    if name == "cond":  # the first argument says which branch
      return index > 0 and all(
        _reads(branch.jaxpr, dtype)[index - 1] for branch in params["branches"]
      )
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)
    if inner is None or len(inner.invars) != len(equation.invars):
      return False
    outer = [is_rounded(it) for it in equation.outvars] if name == "jit" else ()
    return _reads(inner, dtype, outer)[index]

  return [is_rounded(variable) for variable in jaxpr.invars]
