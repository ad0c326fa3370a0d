"""Linear layers and embeddings with named axes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = jax.nn.initializers.Initializer


def linear(
  features: int | Sequence[int],
  axes: Sequence[str | None],
  *,
  dtype: jnp.dtype,
  init: Initializer,
  use_bias: bool = False,
  num_input_axes: int = 1,
  name: str | None = None,
) -> nn.DenseGeneral:
  """y = x · W (+ b) over the last axes of x.

  Args:
    features: sizes of the output axes.
    axes: logical names of the kernel's axes, inputs then outputs.
    dtype: of the product; parameters are float32.
    init: of the kernel; biases start at 0.
    use_bias: adds b.
    num_input_axes: how many last axes of x are contracted.
    name: of the module, where it is made inside a compact method.

  Returns:
    A module; call it on [..., inputs] to get [..., features].
  """
  return nn.DenseGeneral(
    features,
    axis=tuple(range(-num_input_axes, 0)),
    use_bias=use_bias,
    dtype=dtype,
    param_dtype=jnp.float32,
    kernel_init=nn.with_logical_partitioning(init, tuple(axes)),
    bias_init=nn.with_logical_partitioning(
      nn.initializers.zeros, tuple(axes[num_input_axes:])
    ),
    name=name,
  )


class Embedding(nn.Embed):
  """A table whose gradient adds up in float32, whatever its dtype.

  A frequent id adds thousands of gradients to its row. In bfloat16 a sum stops
  growing at 256 times what is added; so rows are cast after the look-up, not
  before.
  """

  def __call__(self, ids: jax.Array) -> jax.Array:
    return jnp.take(self.embedding, ids, axis=0).astype(self.dtype)


def embedding(
  num_ids: int,
  size: int,
  *,
  dtype: jnp.dtype,
  init: Initializer,
  name: str | None = None,
) -> Embedding:
  """A table [num_ids, size]; call it on ids [...] to get [..., size]."""
  return Embedding(
    num_ids,
    size,
    dtype=dtype,
    param_dtype=jnp.float32,
    embedding_init=nn.with_logical_partitioning(init, ("vocab", "embed")),
    name=name,
  )
