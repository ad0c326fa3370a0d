#!/usr/bin/env bash
# jax 0.10.2, CPU: jnp.max and jnp.min over the last axis lose NaN, from a size on.
#
# The maximum of a row that holds NaN is NaN in NumPy, and of small arrays here.
# Of an array of 4096 numbers or more, [256, 16], it is the largest
# of the others: XLA hands such reductions to YNNPACK, which drops NaN. Without
# that (XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce) it is NaN again;
# --xla_cpu_enable_fast_min_max=false changes nothing. A check of the kind "is the
# largest value finite" passes, so it should ask for all of them, or for the sum.
# jax 0.12.0.1 does the same.
#
# Guess before running: NaN, whatever the size, as jnp.maximum gives.
# Seen: "[255, 16] nan, [256, 16] 1.0, by sums nan, without YNNPACK nan".
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
python3 -m venv "$directory/environment"
"$directory/environment/bin/pip" install -q jax==0.10.2 jaxlib==0.10.2
cat >"$directory/largest.py" <<'PYTHON'
import sys

import jax.numpy as jnp
import numpy as np

x = np.ones((int(sys.argv[1]), 16), np.float32)
x[100, 3] = np.nan
print(getattr(jnp, sys.argv[2])(jnp.asarray(x), axis=-1)[100])
PYTHON
export JAX_PLATFORMS=cpu
largest() {
  "$directory/environment/bin/python" "$directory/largest.py" "$@"
}
small=$(largest 255 max)
large=$(largest 256 max)
least=$(largest 256 min)
sums=$(largest 256 sum)
without=$(XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=-reduce largest 256 max)
echo "[255, 16] $small, [256, 16] $large, by sums $sums, without YNNPACK $without"
[[ "$small $large $least $sums $without" == "nan 1.0 1.0 nan nan" ]]
