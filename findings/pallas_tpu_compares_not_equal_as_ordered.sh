#!/usr/bin/env bash
# jax 0.10.2, a Pallas kernel lowered for TPU (no TPU needed): `x != 0` becomes
# the ordered comparison, which is false of NaN.
#
# In JAX, as in IEEE 754, NaN != 0 is true, and interpret mode says so, too. In
# MLIR that is `arith.cmpf une`; `one` is true only where neither side is NaN.
#
# Guess before running: `une`, as XLA's own comparison of direction NE.
# Seen: `arith.cmpf one` in the kernel for TPUs, True of NaN in interpret mode.
# So a guard such as `where(x != 0, f(x), 0)` lets NaN through in every test that
# interprets, and would make 0 of it on the chip; `where(x == 0, 0, f(x))`, whose
# `oeq` is false of NaN either way, does not. The same with jax 0.12.0.1.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/environment"
"$directory/environment/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
export JAX_PLATFORMS=cpu
"$directory/environment/bin/python" - <<'PYTHON'
import contextlib
import io
import re

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

shape = jax.ShapeDtypeStruct((8, 128), jnp.float32)


def kernel(x_ref, out_ref):
  out_ref[...] = jnp.where(x_ref[...] != 0, 1.0, 0.0)


interpreted = pl.pallas_call(kernel, out_shape=shape, interpret=True)
found = interpreted(jnp.full(shape.shape, jnp.nan))
print("interpreted, NaN != 0:", bool(found[0, 0]))
assert found.all()

printed = io.StringIO()
call = pl.pallas_call(kernel, out_shape=shape, debug=True)
with contextlib.redirect_stdout(printed):
  jax.jit(call).trace(shape).lower(lowering_platforms=("tpu",))
predicates = set(re.findall(r"arith\.cmpf (\w+)", printed.getvalue()))
print("lowered for TPU:", predicates)
assert predicates == {"one"}
PYTHON
