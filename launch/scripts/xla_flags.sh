# shellcheck shell=bash disable=SC2034
# Compiler flags by kind of chip. Sourced, not run.
#
# TPU, through LIBTPU_INIT_ARGS: gathers of parameters and sums of gradients go
# on beside matrix products instead of between them.
tpu_flags=(
  --xla_tpu_enable_async_collective_fusion=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true
  --xla_tpu_enable_async_collective_fusion_multiple_steps=true
  --xla_tpu_overlap_compute_collective_tc=true
  --xla_enable_async_all_gather=true
)
# GPU, through XLA_FLAGS: the same, and larger sums at once.
gpu_flags=(
  --xla_gpu_enable_latency_hiding_scheduler=true
  --xla_gpu_all_reduce_combine_threshold_bytes=134217728
  --xla_gpu_all_gather_combine_threshold_bytes=134217728
  --xla_gpu_reduce_scatter_combine_threshold_bytes=67108864
)
