"""Tests calm_jax/kernels/product.py."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calm_jax.kernels.product import forward_mode, gradients_in, product
from tests.devices import on_devices

# As Linears, attention and vocabularies multiply, and every order of axes.
_SUBSCRIPTS = [
  "abc,cd->abd",
  "abcd,cde->abe",
  "abc,cde->abde",
  "blgqd,bsgd->bgqls",
  "bgqls,bsgd->blgqd",
  "pe,ve->pv",
  "pe,pe->p",
  "pc,cd->dp",
  "cp,dc->pd",
  "cp,cd->dp",
  "bpc,dbc->pdb",
]
_SIZES = dict(
  zip("abcdeglqspv", (2, 3, 24, 8, 16, 2, 5, 3, 7, 4, 40), strict=True)
)


def _inputs(subscripts, dtype):
  keys = jax.random.split(jax.random.key(0), 3)
  *names, out = re.split(",|->", subscripts)
  x, y, slope = (
    jax.random.normal(key, [_SIZES[it] for it in letters])
    for key, letters in zip(keys, [*names, out], strict=True)
  )
  return x.astype(dtype), y, slope.astype(dtype).astype(jnp.float32)


def _float64(subscripts, x, y, slope):
  left, right, out = re.split(",|->", subscripts)
  x, y, slope = (np.asarray(it, np.float64) for it in (x, y, slope))
  return (
    np.einsum(subscripts, x, y),
    np.einsum(f"{out},{right}->{left}", slope, y),
    np.einsum(f"{left},{out}->{right}", x, slope),
  )


def _assert_near(found, expected, tolerance):
  scale = np.abs(expected).max()
  error = np.abs(np.asarray(found, np.float64) - expected).max()
  assert error <= tolerance * scale


@on_devices
@pytest.mark.parametrize("subscripts", _SUBSCRIPTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("weight_dtype", ["float32", "bfloat16"])
def test_value_and_gradients_are_those_of_float64(
  subscripts, dtype, weight_dtype
):
  x, y, slope = _inputs(subscripts, dtype)
  y = y.astype(weight_dtype)

  @jax.jit
  def call(x, y):
    out, pull = jax.vjp(
      lambda x, y: product(subscripts, x, y, result_dtype="float32"), x, y
    )
    return out, *pull(slope)

  found = call(x, y)
  assert found[1].dtype == x.dtype and found[2].dtype == y.dtype
  expected = _float64(subscripts, x, y.astype(dtype), slope)
  rounding = {"float32": 1e-6, "bfloat16": 5e-3}
  for value, want, name in zip(
    found, expected, ("float32", dtype, weight_dtype), strict=True
  ):
    _assert_near(value, want, rounding[name])
  short = jax.jit(lambda x, y: product(subscripts, x, y))(x, y)
  assert short.dtype == x.dtype
  _assert_near(short, expected[0], rounding[dtype])


def _weight_gradient(dtype, x, slope):
  weight = jnp.zeros((x.shape[-1], slope.shape[-1]))

  def total(weight):
    y = product("btd,df->btf", x.astype(dtype), weight)
    return jnp.sum(y.astype(jnp.float32) * slope)

  return jax.jit(jax.grad(total))(weight)


@on_devices
def test_gradient_of_a_weight_adds_up_in_float32():
  ones = jnp.ones((2, 1024, 8))
  found = _weight_gradient("bfloat16", ones, ones)
  np.testing.assert_array_equal(found, np.full((8, 8), 2048))


@on_devices
def test_gradient_of_numbers_of_one_sign():
  x = jax.random.uniform(jax.random.key(0), (4, 2048, 16))
  x = x.astype(jnp.bfloat16).astype(jnp.float32)
  found = _weight_gradient("bfloat16", x, x)
  rows = np.asarray(x, np.float64).reshape(-1, 16)
  np.testing.assert_allclose(found, rows.T @ rows, rtol=1e-4)


def test_gradients_may_be_rounded_before_they_are_reduced():
  x = jax.random.normal(jax.random.key(0), (4, 8, 16)).astype(jnp.bfloat16)
  slope = jax.random.normal(jax.random.key(1), (4, 8, 16))
  exact = _weight_gradient("bfloat16", x, slope)
  with gradients_in("bfloat16"):
    rounded = _weight_gradient("bfloat16", x, slope)
  assert rounded.dtype == jnp.float32
  np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))
  assert (rounded != exact).any()


def test_forward_mode_gives_the_slope_and_its_gradient():
  x, y, _ = _inputs("abc,cd->abd", "bfloat16")

  def slope(y):
    along = lambda t: product("abc,cd->abd", (t * x).astype(x.dtype), y)
    with forward_mode():
      return jax.jvp(along, (1.0,), (1.0,))[1].astype(jnp.float32)

  rounded = y.astype(jnp.bfloat16)
  expected = _float64("abc,cd->abd", x, rounded, jnp.ones(slope(y).shape))
  _assert_near(jax.jit(slope)(y), expected[0], 5e-3)
  gradient = jax.grad(lambda y: slope(y).sum())
  found = jax.jit(gradient)(y)
  _assert_near(found, expected[2], 1e-6)
  with gradients_in("bfloat16"):
    short = gradient(y)
  np.testing.assert_array_equal(short, short.astype(jnp.bfloat16))


@on_devices
def test_forward_mode_multiplies_the_same_rounded_arrays():
  x, y, slope = _inputs("abc,cd->abd", "bfloat16")

  @jax.jit
  def call(y):
    with forward_mode():
      return product("abc,cd->abd", x, y, result_dtype="float32")

  expected = _float64("abc,cd->abd", x, y.astype(x.dtype), slope)
  _assert_near(call(y), expected[0], 1e-6)


def _products(function, arguments, platform):
  """Of a lowered program: types of arrays and result, and precision."""
  traced = jax.jit(function).trace(*arguments)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  lines = [line for line in text.splitlines() if "dot_general" in line]
  types = [re.findall(r"x(bf16|f32)>", line) for line in lines]
  return [
    (*it, "HIGHEST" in line) for it, line in zip(types, lines, strict=True)
  ]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowered_programs_say_the_precision(platform):
  weight = jnp.zeros((8, 8))

  def step(x, weight):
    loss = lambda x, w: product("abc,cd->abd", x, w).astype("float32").sum()
    return jax.value_and_grad(loss, argnums=(0, 1))(x, weight)

  shape = (2, 3, 8)
  found = _products(step, (jnp.zeros(shape), weight), platform)
  assert found == [("f32", "f32", "f32", True)] * 3
  found = _products(step, (jnp.zeros(shape, "bfloat16"), weight), platform)
  # XLA on CPUs converts what is asked for in bfloat16, so there it is not.
  short = "f32" if platform == "cpu" else "bf16"
  assert sorted(found) == sorted(
    [
      ("bf16", "bf16", short, False),  # the value
      ("bf16", "bf16", short, False),  # the gradient of x
      ("bf16", "bf16", "f32", False),  # that of the weight
    ]
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_split_over_devices(dtype):
  mesh = jax.make_mesh(
    (4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  place = lambda *names: jax.NamedSharding(mesh, jax.P(*names))
  x = jax.random.normal(jax.random.key(0), (8, 4, 16)).astype(dtype)
  y = jax.random.normal(jax.random.key(1), (16, 6))

  def call(x, y):
    loss = lambda x, y: product("abc,cd->abd", x, y).astype("float32").sum()
    return jax.grad(loss, argnums=(0, 1))(x, y)

  expected = jax.jit(call)(x, y)
  with jax.set_mesh(mesh):
    found = jax.jit(call)(
      jax.device_put(x, place("data")), jax.device_put(y, place(None, "tensor"))
    )
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_allclose(
      a.astype("float32"), b.astype("float32"), rtol=1e-2, atol=1e-5
    )
