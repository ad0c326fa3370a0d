"""Matrix products of which value and gradients are summed in float32.

A product of bfloat16 arrays is rounded products summed up, and left alone a
compiler sums as it likes: XLA on CPUs adds the gradient of a weight up in
bfloat16, which stops growing at 256 times what is added, and every platform
rounds that gradient to bfloat16 before it is reduced over devices. Here

    y = x̂ · ŵ,   dx = dŷ · ŵᵀ,   dw = x̂ᵀ · dŷ   (^: rounded to the dtype of x)

are each products of two arrays in the dtype of x, summed in float32, of which
dw stays float32 if w is. Arrays in float32 are multiplied in float32 (no TF32
on GPUs, no passes in bfloat16 on TPUs).
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from calm_jax.kernels import per_shard

_gradient_dtype = contextvars.ContextVar("gradient_dtype", default="float32")
_is_forward_mode = contextvars.ContextVar("is_forward_mode", default=False)


@contextlib.contextmanager
def gradients_in(dtype: DTypeLike) -> Iterator[None]:
  """While tracing, float32 weights get their gradients from sums in `dtype`.

  In bfloat16 what is reduced over devices takes half the bytes; it is rounded
  before.
  """
  with _set(_gradient_dtype, jnp.dtype(dtype).name):
    yield


@contextlib.contextmanager
def forward_mode() -> Iterator[None]:
  """While tracing, products can be differentiated forwards, as by `jax.jvp`.

  The same rounded arrays are multiplied as float32, and the gradient of a
  weight is as above. No precision is named: what is rounded loses nothing more
  in a pass of bfloat16 on a TPU, which is as fast, or as TF32 on a GPU, which
  is half as fast; float32 proper would take several times as long.
  """
  with _set(_is_forward_mode, True):
    yield


@contextlib.contextmanager
def _set(variable, value):
  token = variable.set(value)
  try:
    yield
  finally:
    variable.reset(token)


def product(
  subscripts: str,
  x: jax.Array,
  y: jax.Array,
  *,
  result_dtype: DTypeLike | None = None,
) -> jax.Array:
  """`jnp.einsum` of two arrays, rounded and summed as the module says.

  Args:
    subscripts: explicit, without ellipsis; every letter stands in two of the
      three terms at least.
    x: its dtype is that of the multiplication.
    y: rounded to the dtype of x; its gradient has y's own dtype.
    result_dtype: float32, or by default that of x.

  Returns:
    The product.
  """
  result_dtype = x.dtype if result_dtype is None else jnp.dtype(result_dtype)
  if x.dtype == jnp.float32:
    return multiply(subscripts, x, y.astype(x.dtype), result_dtype)
  if _is_forward_mode.get():
    out = jnp.einsum(subscripts, x.astype(jnp.float32), _round(y, x.dtype))
    return out.astype(result_dtype)
  dtype = _gradient_dtype.get()
  return _product(subscripts, result_dtype.name, dtype, x, y)


def _round(y, dtype):
  """To `dtype`, as float32; the gradient of a weight is not rounded with it."""
  rounded = y.astype(dtype).astype(jnp.float32)
  if y.dtype != jnp.float32 or _gradient_dtype.get() != "float32":
    return rounded
  # No digit is lost: the difference is exact, and so is the sum.
  return y + jax.lax.stop_gradient(rounded - y)


def multiply(
  subscripts: str, x: jax.Array, y: jax.Array, result_dtype: DTypeLike
) -> jax.Array:
  """The product of two arrays of one dtype, not meant to be differentiated."""
  if x.dtype == jnp.float32:
    out = jnp.einsum(subscripts, x, y, precision="highest")
    return out.astype(result_dtype)
  rounded = functools.partial(
    jnp.einsum, subscripts, preferred_element_type=result_dtype
  )
  on_cpu = functools.partial(_multiply_on_cpu, subscripts, result_dtype)
  return jax.lax.platform_dependent(x, y, cpu=on_cpu, default=rounded)


def _multiply_on_cpu(subscripts, result_dtype, x, y):
  """Keeps XLA on the path that multiplies bfloat16 without converting it.

  That takes [rows, shared] times [shared, columns] or its transpose to [rows,
  columns] in float32, each as it lies in memory: a transpose of the first is
  twice as slow, one of the result refused when it runs (jax 0.10.2 to 0.12.0).
  """
  if per_shard.num_devices_unknown() > 1:
    # A layout asked for would make XLA gather what devices have split.
    wide = (it.astype(jnp.float32) for it in (x, y))
    return jnp.einsum(subscripts, *wide).astype(result_dtype)
  left, right, out = _terms(subscripts)
  sizes = dict(zip(left + right, x.shape + y.shape, strict=True))
  plan, swapped = _Plan(left, right, out), _Plan(right, left, out)
  if swapped.num_moved(sizes) < plan.num_moved(sizes):
    return swapped(y, x).astype(result_dtype)
  return plan(x, y).astype(result_dtype)


def _terms(subscripts: str) -> list[str]:
  """Letters of the two arrays and of the result."""
  inputs, out = subscripts.split("->")
  return [*inputs.split(","), out]


class _Plan:
  """How the product of two arrays is brought into that form."""

  def __init__(self, left: str, right: str, out: str):
    shared = {*left} & {*right}
    self.left, self.right, self.out = left, right, out
    self.batch = [it for it in out if it in shared]
    self.contracted = [it for it in right if it in shared and it not in out]
    rows = [it for it in left if it in out and it not in shared]
    columns = [it for it in right if it in out and it not in shared]
    self.first = "".join([*self.batch, *rows, *self.contracted])
    self.found = "".join([*self.batch, *rows, *columns])

  def num_moved(self, sizes: dict[str, int]) -> int:
    """Numbers in bfloat16, or as many bytes, that are turned."""
    size = lambda letters: math.prod(map(sizes.get, letters))
    is_turned = self.first != self.left, self.found != self.out
    return is_turned[0] * size(self.left) + 2 * is_turned[1] * size(self.out)

  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    axes = lambda names, letters: tuple(map(names.index, letters))
    out = jax.lax.dot_general(
      _as_it_lies(_turn(x, self.left, self.first)),
      y,
      (
        (axes(self.first, self.contracted), axes(self.right, self.contracted)),
        (axes(self.first, self.batch), axes(self.right, self.batch)),
      ),
      preferred_element_type=jnp.float32,
    )
    return _turn(_as_it_lies(out), self.found, self.out)


def _turn(x, names, order):
  return jnp.transpose(x, tuple(map(names.index, order)))


def _as_it_lies(x):
  return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _product(subscripts, result_dtype, gradient_dtype, x, y):
  return multiply(subscripts, x, y.astype(x.dtype), result_dtype)


def _product_forward(subscripts, result_dtype, gradient_dtype, x, y):
  return _product(subscripts, result_dtype, gradient_dtype, x, y), (x, y)


def _product_backward(subscripts, result_dtype, gradient_dtype, arrays, slope):
  del result_dtype
  x, y = arrays
  left, right, out = _terms(subscripts)
  slope = slope.astype(x.dtype)
  rounded = y.astype(x.dtype)
  x_slope = multiply(f"{out},{right}->{left}", slope, rounded, x.dtype)
  is_weight = y.dtype == jnp.float32
  y_slope = multiply(
    f"{left},{out}->{right}", x, slope, gradient_dtype if is_weight else y.dtype
  )
  return x_slope, y_slope.astype(y.dtype)


_product.defvjp(_product_forward, _product_backward)
