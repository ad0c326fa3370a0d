#!/usr/bin/env bash
# Plans the paper's models for three slices, and writes a table of them.
#
#   launch/scripts/plan_all.sh [OUTPUT]
#
# Plans that are there already stay: a second run goes on after an interrupted
# one. Takes some minutes each; needs no TPU, only the extra [aot].
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:-benchmarks/plans}
mkdir -p "$output/programs"

# The file's name, then what to plan.
plan() {
  local name=$1
  shift
  [[ -e $output/$name.json ]] && return
  echo "== $name"
  # 2 says that it does not fit, which is a result, too. One mesh for all, so
  # that rows of the table differ by slice and size alone.
  python -m launch.plan --output="$output/$name.json" "$@" || (($? == 2))
}

for slice in v5p:4x4x4 v5e:16x16 v6e:16x16; do
  for size in xl l m; do
    plan "$size-${slice/:/-}" --config="experiments/calm.py:$size" \
      --topology="$slice" --mesh=fsdp=16
  done
done
for chunk_size in 1 2 8; do
  plan "l-k$chunk_size-v5p-4x4x4" --topology=v5p:4x4x4 \
    --config="experiments/calm.py:l,chunk_size=$chunk_size" --mesh=fsdp=16
done
for slice in v5p:4x4x4 v5e:16x16; do
  plan "xl-muon-${slice/:/-}" --config="experiments/calm.py:xl" \
    --topology="$slice" --config.optimizer.name=muon --mesh=fsdp=16
done
plan xl-fast-v5p-4x4x4 --config="experiments/calm.py:xl,recipe=fast" \
  --topology=v5p:4x4x4 --mesh=fsdp=16
for slice in v5p:2x2x4 v5e:4x4; do
  plan "autoencoder-k4-${slice/:/-}" --config=experiments/autoencoder.py:k4 \
    --topology="$slice"
done
for program in evaluate generate; do
  plan "programs/xl-$program-v5e-4x4" --config=experiments/calm.py:xl \
    --topology=v5e:4x4 --program="$program" --rows=1
done
python -c "
from calm_jax.planning.table import write_table
write_table('$output')
"
