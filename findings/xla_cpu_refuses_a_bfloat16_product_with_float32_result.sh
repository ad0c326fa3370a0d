#!/usr/bin/env bash
# jax 0.10.2, CPU: attention scores of bfloat16 queries and keys, asked for in
# float32, run or fail by the order of the axes.
#
# Grouped queries [B, L, G, q, d] times keys [B, G, d, S] over d, with B and G
# batched and `preferred_element_type=float32`: the program compiles, and fails
# when it runs. It is fine in float32; with keys [B, S, G, d]; with L = 1; and
# with the queries turned to [B, G, q, L, d] first. So a decoder that works on one
# token at a time fails when it reads two.
#
# Guess before running: XLA turns the axes itself, all orders run.
# Seen: "UNIMPLEMENTED: Unsupported element type for DotThunk::Execute: BF16 x
# BF16 = F32" for the first order alone.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/environment"
"$directory/environment/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$directory/environment/bin/python" - <<'PYTHON'
import functools

import jax
import jax.numpy as jnp

B, L, G, q, d, S = 3, 2, 2, 1, 4, 8
product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def outcome(call, *shapes, dtype=jnp.bfloat16):
  try:
    jax.jit(call)(*(jnp.ones(s, dtype) for s in shapes)).block_until_ready()
    return "runs"
  except jax.errors.JaxRuntimeError as error:
    return str(error)


plain = functools.partial(product, "blgqd,bgds->bgqls")
turned = lambda x, k: product("bgqld,bgds->bgqls", x.transpose(0, 2, 3, 1, 4), k)
slots_first = functools.partial(product, "blgqd,bsgd->bgqls")
queries, keys = (B, L, G, q, d), (B, G, d, S)
found = {
  "plain": outcome(plain, queries, keys),
  "float32": outcome(plain, queries, keys, dtype=jnp.float32),
  "one query": outcome(plain, (B, 1, G, q, d), keys),
  "turned": outcome(turned, queries, keys),
  "slots first": outcome(slots_first, queries, (B, S, G, d)),
}
for name, what in found.items():
  print(f"{name:12s} {what}")
refused = {name for name, what in found.items() if what != "runs"}
assert refused == {"plain"}, refused
assert "BF16 x BF16 = F32" in found["plain"]
PYTHON
