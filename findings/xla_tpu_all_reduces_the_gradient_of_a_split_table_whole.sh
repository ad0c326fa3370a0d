#!/usr/bin/env bash
# jax 0.10.2 with libtpu 0.0.42.1, compiled ahead of time for v5e:2x4: the
# gradient of an embedding whose columns are split is summed whole.
#
# A table [V, D] is split by columns over `fsdp` (4), a batch of ids by rows over
# `data` and `fsdp` (8), and the gradient is wanted as the table is. Of
# `jnp.take(table, ids, axis=0)` every chip could sum the columns it keeps, or
# take part in a reduce-scatter.
#
# Guess before running: a reduce-scatter over `fsdp`, then a sum over `data`.
# Seen: an all-reduce of the whole float32 [V, D] over all chips, of which each
# then drops three quarters. With the ids asked for by rows of `data` alone, and
# what is looked up by columns of `fsdp`, it is an all-reduce of [V, D/4] over
# `data`, and two all-to-alls of the rows in bfloat16.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/environment"
"$directory/environment/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2 \
  libtpu==0.0.42.1
export JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost
export TPU_ACCELERATOR_TYPE=v5litepod-4
"$directory/environment/bin/python" - <<'PYTHON'
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

V, D, B, L = 32768, 1024, 512, 1024
devices = topologies.get_topology_desc("v5e:2x4", "tpu").devices
mesh = Mesh(np.array(devices).reshape(2, 4), ("data", "fsdp"))
place = lambda *axes: NamedSharding(mesh, P(*axes))
constrain = jax.lax.with_sharding_constraint


def plain(table, ids):
  return jnp.take(table, ids, axis=0)


def by_columns(table, ids):
  rows = jnp.take(table, constrain(ids, place("data")), axis=0)
  return constrain(rows, place("data", None, "fsdp"))


def sums(look_up):
  """Shapes of the all-reduces in the gradient of a toy loss."""

  def loss(table, ids, matrix):
    x = look_up(table, ids).astype(jnp.bfloat16)
    x = constrain(x, place(("data", "fsdp")))
    return jnp.sum(jnp.tanh((x @ matrix).astype(jnp.float32)))

  shape = lambda dims, dtype, *axes: jax.ShapeDtypeStruct(
    dims, dtype, sharding=place(*axes)
  )
  text = (
    jax.jit(jax.grad(loss), out_shardings=place(None, "fsdp"))
    .lower(
      shape((V, D), jnp.float32, None, "fsdp"),
      shape((B, L), jnp.int32, ("data", "fsdp")),
      shape((D, D), jnp.bfloat16),
    )
    .compile()
    .as_text()
  )
  return re.findall(r"= (\w+\[[\d,]*\])\S* all-reduce(?:-start)?\(", text)


found = {it.__name__: sums(it) for it in (plain, by_columns)}
for name, shapes in found.items():
  print(f"{name:12s} {', '.join(shapes)}")
assert found == {
  "plain": [f"f32[{V},{D}]"],
  "by_columns": [f"f32[{V},{D // 4}]"],
}, found
PYTHON
