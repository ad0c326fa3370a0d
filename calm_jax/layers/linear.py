"""Linear layers and embeddings with named axes."""

import math
import string
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from calm_jax.kernels.product import product
from calm_jax.layers.activation import constrain_rows, look_up

Initializer = jax.nn.initializers.Initializer

# What a remat policy knows the product of a Linear by.
SAVED_PRODUCT = "linear_product"


class Linear(nn.Module):
  """y = x · W (+ b) over the last axes of x; W and b are float32.

  Products, their sums and both gradients are those of `kernels.product`; b is
  added in float32, and its gradient added up so.
  """

  features: tuple[int, ...]
  axes: tuple[str | None, ...]
  dtype: jnp.dtype
  kernel_init: Initializer
  use_bias: bool = False
  num_input_axes: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [..., inputs] to [..., features] in `dtype`."""
    num_inputs = self.num_input_axes
    inputs = x.shape[-num_inputs:]

    def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
      # Initializers know matrices: what comes in, what goes out.
      flat = (math.prod(inputs), math.prod(self.features))
      return self.kernel_init(key, flat, jnp.float32).reshape(shape)

    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(init, self.axes),
      (*inputs, *self.features),
    )
    letters = string.ascii_letters[: x.ndim + len(self.features)]
    left, out = letters[: x.ndim], letters[x.ndim :]
    shared, contracted = left[:-num_inputs], left[-num_inputs:]
    y = product(
      f"{left},{contracted}{out}->{shared}{out}", x.astype(self.dtype), kernel
    )
    y = checkpoint_name(y, SAVED_PRODUCT)
    if not self.use_bias:
      return y
    zeros = nn.with_logical_partitioning(
      nn.initializers.zeros, self.axes[num_inputs:]
    )
    bias = self.param("bias", zeros, self.features)
    bias = bias.reshape((1,) * len(shared) + self.features)
    return (y.astype(jnp.float32) + bias).astype(self.dtype)


def linear(
  features: int | Sequence[int],
  axes: Sequence[str | None],
  *,
  dtype: jnp.dtype,
  init: Initializer,
  use_bias: bool = False,
  num_input_axes: int = 1,
  name: str | None = None,
) -> Linear:
  """A layer; call it on [..., inputs] to get [..., features].

  Args:
    features: sizes of the output axes.
    axes: logical names of the kernel's axes, inputs then outputs.
    dtype: of the product; parameters are float32.
    init: of the kernel; biases start at 0.
    use_bias: adds b.
    num_input_axes: how many last axes of x are contracted.
    name: of the module, where it is made inside a compact method.
  """
  sizes = (features,) if isinstance(features, int) else tuple(features)
  return Linear(
    sizes,
    tuple(axes),
    jnp.dtype(dtype),
    init,
    use_bias=use_bias,
    num_input_axes=num_input_axes,
    name=name,
  )


class Embedding(nn.Embed):
  """A table whose gradient adds up in float32, whatever its dtype.

  A frequent id adds thousands of gradients to its row. In bfloat16 a sum stops
  growing at 256 times what is added; so rows are cast after the look-up, not
  before.
  """

  def __call__(self, ids: jax.Array) -> jax.Array:
    rows = look_up(self.embedding, ids)
    return constrain_rows(rows.astype(self.dtype))


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
