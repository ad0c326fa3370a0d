#!/usr/bin/env bash
# jax 0.10.2, CPU, 2 devices: `all_to_all` in a `shard_map`, of matrices of which
# one half is transposed just before, does not compile.
#
# The exchange becomes one instruction with an operand for each device. Where
# the parts that go to different devices are whole results of different
# operations, simplification puts these in place of the slices; the transposed
# one is a view with another layout, and XLA's own verifier then refuses the
# program, with a message that shows two equal shapes: layouts are left out of
# it. `jax.lax.optimization_barrier` before the exchange avoids it.
#
# Guess before running: both compile.
# Seen: "all-to-all has operands with different shapes: the 0th operand shape
# f32[2,8,32], but the 1th operand has shape f32[2,8,32]"; with the barrier, or
# without the transpose, it compiles and the numbers are right.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/environment"
"$directory/environment/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2 \
  "$directory/environment/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
columns, rows = P(None, None, "x"), P(None, "x")
rng = np.random.default_rng(0)
tall, wide = rng.normal(size=(2, 32, 16)), rng.normal(size=(2, 16, 32))


def joined(first, has_barrier):
  """Whole matrices on one device instead of rows of all on both, and back."""

  def on_device(x):
    if has_barrier:
      x = jax.lax.optimization_barrier(x)
    x = jax.lax.all_to_all(x, "x", 0, 1, tiled=True)
    return jax.lax.all_to_all(2 * x, "x", 1, 0, tiled=True)

  exchange = jax.shard_map(
    on_device, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
  )
  return lambda a, b: exchange(jnp.concatenate([first(a), b]))


put = lambda x, spec: jax.device_put(jnp.float32(x), NamedSharding(mesh, spec))
found = {}
for name, first, a, spec, has_barrier in [
  ("transposed", lambda x: x.mT, tall, columns, False),
  ("transposed, barrier", lambda x: x.mT, tall, columns, True),
  ("as it is", lambda x: x, wide, rows, False),
]:
  expected = 2 * np.concatenate([first(a), wide])
  try:
    result = jax.jit(joined(first, has_barrier))(put(a, spec), put(wide, rows))
  except jax.errors.JaxRuntimeError as error:
    found[name] = "operands with different shapes" in str(error)
    print(f"{name}: {str(error).splitlines()[0][:170]}")
  else:
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    found[name] = "right"
    print(f"{name}: right")
assert found == {
  "transposed": True,
  "transposed, barrier": "right",
  "as it is": "right",
}, "the behaviour has changed"
PYTHON
