"""Parameters as plain trees, and the logical axes that sharding reads.

Modules attach axis names to their initialisers; users of the package never see
the boxes these names travel in.
"""

from typing import Any

import jax
from flax import linen as nn

from calm_jax.randomness import root_key


def init_params(model: nn.Module, key: jax.Array, *inputs, **kwargs) -> Any:
  """Initialises a model.

  Args:
    model: any module of this package.
    key: typed key, [].
    *inputs: what `model.__call__` takes; only shapes and dtypes matter.
    **kwargs: likewise.

  Returns:
    Nested dict of float32 arrays.
  """
  # One compiled program, where eager initialisation would be hundreds.
  init = jax.jit(lambda key: nn.unbox(model.init(key, *inputs, **kwargs)))
  return init(key)["params"]


def logical_axes(model: nn.Module, *inputs, **kwargs) -> Any:
  """The logical axis names of every parameter.

  Args:
    model: any module of this package.
    *inputs: what `model.__call__` takes; only shapes and dtypes matter.
    **kwargs: likewise.

  Returns:
    The tree of `init_params` with a `PartitionSpec` of names for each array.
  """
  boxed = jax.eval_shape(model.init, root_key(0), *inputs, **kwargs)
  return nn.get_partition_spec(boxed["params"])
