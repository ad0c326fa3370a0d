"""Tests calm_jax/layers/attention.py."""

import collections
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType

from calm_jax.layers.attention import (
  LayerCache,
  cached_attention,
  causal_attention,
  masked_attention,
)
from calm_jax.layers.remat import save_products


def _inputs(rows=2, length=6, heads=4, groups=2, size=8):
  rng = np.random.default_rng(0)
  shapes = [(heads,), (groups,), (groups,)]
  return [
    rng.normal(size=(rows, length, *shape, size)).astype(np.float32)
    for shape in shapes
  ]


def _by_loops(query, key, value, segments):
  """Float64, one query head and position at a time."""
  query, key, value = (x.astype(np.float64) for x in (query, key, value))
  rows, length, heads, size = query.shape
  out = np.zeros_like(query)
  for b in range(rows):
    for h in range(heads):
      g = h * key.shape[2] // heads
      for i in range(length):
        allowed = [j for j in range(i + 1) if segments[b, i] == segments[b, j]]
        scores = key[b, allowed, g] @ query[b, i, h] / np.sqrt(size)
        weights = np.exp(scores - scores.max())
        out[b, i, h] = weights / weights.sum() @ value[b, allowed, g]
  return out


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_agrees_with_loops(groups, implementation):
  query, key, value = _inputs(groups=groups)
  one = np.zeros((2, 6), np.int32)
  two = np.array([[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1]], np.int32)
  arrays = [jnp.asarray(x) for x in (query, key, value)]
  for segments, given in ((one, None), (two, jnp.asarray(two))):
    found = causal_attention(*arrays, given, implementation=implementation)
    expected = _by_loops(query, key, value, segments)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("num_slots", [0, 1, 5])
def test_a_cache_and_what_follows_it_are_attended_to_as_one(groups, num_slots):
  query, key, value = _inputs(groups=groups)
  query = query[:, num_slots:]
  mask = np.random.default_rng(1).random((2, 6 - num_slots, 6)) < 0.6
  mask[..., -1] = True

  def cached(query, key, value):
    slots = [jnp.moveaxis(x, 1, -1) for x in (key, value)]
    return cached_attention(
      query,
      LayerCache(*(x[..., :num_slots] for x in slots)),
      LayerCache(*(x[..., num_slots:] for x in slots)),
      mask,
    )

  def in_float64(query, key, value):
    heads = [jnp.repeat(x, 4 // groups, axis=2) for x in (key, value)]
    scores = jnp.einsum("blhd,bshd->bhls", query, heads[0]) / np.sqrt(8)
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf))
    return jnp.einsum("bhls,bshd->blhd", weights, heads[1])

  def all_of(call, dtype):
    arrays = [jnp.asarray(x, dtype) for x in (query, key, value)]
    slopes = jax.grad(lambda *x: jnp.sum(jnp.sin(call(*x))), argnums=(0, 1, 2))
    return call(*arrays), *slopes(*arrays)

  with jax.enable_x64(True):
    expected = all_of(in_float64, np.float64)
    expected = [np.asarray(x) for x in expected]
  plain = lambda *x: masked_attention(*x, mask)
  for call in (cached, plain):
    for found, wanted in zip(all_of(call, np.float32), expected, strict=True):
      np.testing.assert_allclose(found, wanted, atol=3e-6)


def test_a_cache_in_bfloat16():
  query, key, value = (jnp.bfloat16(x) for x in _inputs(rows=3))
  mask = np.tril(np.ones((1, 6, 6), bool))[:, 4:]
  slots = [jnp.moveaxis(x, 1, -1) for x in (key, value)]
  found = jax.jit(cached_attention)(
    query[:, 4:],
    LayerCache(*(x[..., :4] for x in slots)),
    LayerCache(*(x[..., 4:] for x in slots)),
    mask,
  )
  exact = (np.float32(x) for x in (query[:, 4:], key, value))
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.float32(found), masked_attention(*exact, mask), atol=0.03
  )


def test_softmax_of_large_scores_is_finite():
  query, key, value = (1e3 * jnp.asarray(x) for x in _inputs())
  out, grad = jax.value_and_grad(
    lambda q: causal_attention(q, key, value).sum()
  )(query)
  assert jnp.isfinite(out) and jnp.isfinite(grad).all()


def _error(actual, expected):
  return jnp.max(jnp.abs(actual - expected)) / jnp.max(jnp.abs(expected))


def _value_and_slopes(inputs, segments, implementation):
  def total(*inputs):
    out = causal_attention(*inputs, segments, implementation=implementation)
    return jnp.sum(jnp.sin(out)), out

  slopes, out = jax.grad(total, (0, 1, 2), has_aux=True)(*inputs)
  return (out, *slopes)


@pytest.mark.parametrize(("groups", "has_segments"), [(1, False), (2, True)])
def test_splash_agrees_with_the_definition(groups, has_segments):
  """Emulated; 6 positions and heads of 8 are far from whole tiles."""
  inputs = [jnp.asarray(x) for x in _inputs(groups=groups)]
  segments = None
  if has_segments:
    segments = jnp.array([[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1]])
  found = _value_and_slopes(inputs, segments, "pallas")
  expected = _value_and_slopes(inputs, segments, "reference")
  for actual, wanted in zip(found, expected, strict=True):
    assert actual.shape == wanted.shape and actual.dtype == wanted.dtype
    assert _error(actual, wanted) < 2e-5


@pytest.mark.parametrize(
  ("sizes", "groups"),
  [((1, 2, 4, 1), 2), ((2, 1, 2, 2), 4)],
)
def test_splash_on_a_mesh_agrees_with_one_device(sizes, groups):
  """Rows, heads and chunks split; also where an axis does not divide."""
  inputs = [jnp.asarray(x) for x in _inputs(rows=4, groups=groups)]
  segments = jnp.array([[0, 0, 1, 1, 1, 2]] * 3 + [[0, 1, 1, 1, 1, 1]])
  expected = _value_and_slopes(inputs, segments, "reference")
  mesh = jax.make_mesh(
    sizes,
    ("data", "fsdp", "tensor", "sequence"),
    axis_types=(AxisType.Auto,) * 4,
  )
  with jax.set_mesh(mesh):
    function = jax.jit(_value_and_slopes, static_argnums=2)
    found = function(inputs, segments, "pallas")
  for actual, wanted in zip(found, expected, strict=True):
    assert _error(actual, wanted) < 2e-5


def _program(dtype, implementation, policy=None):
  """Of value and gradient, as JAX prints it, kernels included."""
  inputs = [jnp.zeros((2, 256, heads, 64), dtype) for heads in (4, 2, 2)]
  segments = jnp.zeros((2, 256), jnp.int32)

  def total(*inputs):
    out = causal_attention(*inputs, segments, implementation=implementation)
    return jnp.sum(jnp.sin(out.astype(jnp.float32)))

  if policy:
    total = jax.checkpoint(total, policy=policy)
  return jax.make_jaxpr(jax.value_and_grad(total, (0, 1, 2)))(*inputs)


@pytest.mark.parametrize(
  "implementation", ["auto", "reference", "xla", "pallas"]
)
def test_every_product_of_float32_says_its_precision(implementation):
  text = str(_program("float32", implementation))
  found = re.findall(r"\bprecision=(.*)", text)
  assert text.count("dot_general[") >= 6
  assert found == ["(Precision.HIGHEST, Precision.HIGHEST)"] * (
    text.count("dot_general[")
  )
  assert "HIGHEST" not in str(_program("bfloat16", implementation))


def _count_kernels(jaxpr, counts):
  """Adds how often each Pallas kernel is called."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "pallas_call":
      # splash_mha_fwd_…, …_dq_… and …_dkv_…
      counts[re.search("fwd|dq|dkv", equation.params["name"])[0]] += 1
    for inner in jaxprs_in_params(equation.params):
      _count_kernels(inner, counts)
  return counts


@pytest.mark.parametrize("keeps", [True, False])
def test_remat_keeps_what_splash_computed(keeps):
  policies = jax.checkpoint_policies
  policy = save_products if keeps else policies.nothing_saveable
  program = _program("float32", "auto", policy)
  counts = _count_kernels(program.jaxpr, collections.Counter())
  assert counts == {"fwd": 1 if keeps else 2, "dq": 1, "dkv": 1}


def test_other_platforms_are_not_paid_for():
  """What only a TPU keeps for its backward pass costs nothing here."""
  inputs = [jnp.ones((3, *x.shape)) for x in _inputs(length=64)]

  def temporaries(implementation):
    def total(inputs):
      def layer(carry, inputs):
        out = causal_attention(*inputs, implementation=implementation)
        return carry + jnp.sum(out), None

      return jax.lax.scan(layer, 0.0, inputs)[0]

    compiled = jax.jit(jax.grad(total)).lower(inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries("auto") < 1.1 * temporaries("reference")


def test_a_gpu_has_cudnn_or_is_told(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  inputs = [jnp.asarray(x) for x in _inputs()]
  with pytest.raises(ValueError, match="auto"):
    causal_attention(*inputs, implementation="pallas")


def _exported(dtype, implementation, *, size=8, policy=None):
  shape = jax.ShapeDtypeStruct((2, 6, 4, size), dtype)
  segments = jax.ShapeDtypeStruct((2, 6), jnp.int32)

  def total(query, key, value, segments):
    out = causal_attention(
      query, key, value, segments, implementation=implementation
    )
    return jnp.sum(out.astype(jnp.float32))

  if policy:
    total = jax.checkpoint(total, policy=policy)
  exported = jax.export.export(
    jax.jit(jax.value_and_grad(total, (0, 1, 2))),
    platforms=["cuda"],
    disabled_checks=[
      jax.export.DisabledSafetyCheck.custom_call(f"__cudnn${name}")
      for name in ("fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward")
    ],
  )
  return exported(shape, shape, shape, segments).mlir_module()


@pytest.mark.parametrize("implementation", ["auto", "xla", "reference"])
def test_lowers_for_gpu(implementation):
  assert "__cudnn" not in _exported(jnp.bfloat16, implementation)


@pytest.fixture
def gpu(monkeypatch):
  """JAX as with GPUs; call it with the compute capability of each."""
  fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")

  def pretend(capabilities):
    devices = [
      types.SimpleNamespace(compute_capability=it) for it in capabilities
    ]
    is_hopper = min(map(float, capabilities)) >= 9
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda backend: devices)
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda _: is_hopper)

  pretend(("8.0",))
  return pretend


def test_a_gpu_calls_cudnn(gpu):
  """As far as that can be seen without one: the call is in the program."""
  text = _exported(jnp.bfloat16, "auto")
  assert "fmhaScaleBiasSoftmaxBackward" in text
  assert "__cudnn" not in _exported(jnp.float32, "auto")


def test_remat_keeps_what_cudnn_computed(gpu):
  text = _exported(jnp.bfloat16, "auto", policy=save_products)
  assert text.count("fmhaScaleBiasSoftmax(") == 1
  nothing = jax.checkpoint_policies.nothing_saveable
  text = _exported(jnp.bfloat16, "auto", policy=nothing)
  assert text.count("fmhaScaleBiasSoftmax(") == 2


@pytest.mark.parametrize(
  ("size", "capabilities", "fits"),
  [
    (128, ("8.0",), True),
    (160, ("8.0",), False),
    (160, ("9.0",), True),
    (256, ("10.0",), True),
    (160, ("9.0", "8.0"), False),
    (264, ("9.0",), False),
    (252, ("9.0",), False),
  ],
)
def test_cudnn_takes_wide_heads_where_it_can(gpu, size, capabilities, fits):
  gpu(capabilities)
  text = _exported(jnp.bfloat16, "auto", size=size)
  assert ("__cudnn" in text) == fits
