"""What a device can do at most, and what of it a run reaches."""

from collections.abc import Callable

import jax

# bfloat16 matrix products a second by the beginning of the device's kind, dense
# (cloud.google.com/tpu/docs and the makers' data sheets); the longest counts.
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v6": 918e12,
  "TPU7x": 2307e12 / 2,  # a device is one of a chip's two cores
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H200": 989e12,
  "NVIDIA B200": 2250e12,
}


def peak_flops_per_second(device: jax.Device) -> float | None:
  """Of bfloat16 matrix products; None for a kind that is not known."""
  fitting = [it for it in PEAK_FLOPS if device.device_kind.startswith(it)]
  return PEAK_FLOPS[max(fitting, key=len)] if fitting else None


class Speed:
  """FLOPs a second against the peak, and memory, where the device says them."""

  def __init__(self, flops_fn: Callable[[], float] | None):
    """Takes what gives the FLOPs of a step on all devices, if it is known."""
    peak = peak_flops_per_second(jax.devices()[0])
    self._peak = (peak or 0.0) * jax.device_count()
    self._flops = flops_fn() if flops_fn and peak else 0.0

  def measure(self, num_steps: int, seconds: float) -> dict[str, float]:
    """Numbers by name for a row of the log.

    Args:
      num_steps: done in the time.
      seconds: of training.

    Returns:
      teraflops_per_second, of all devices together; mfu, its share of their
      peak (Chowdhery et al., 2022, appendix B); peak_memory_gib, the most that
      this process's fullest device has held. What is not known is left out.
    """
    numbers = {}
    if self._flops:
      reached = self._flops * num_steps / max(seconds, 1e-9)
      numbers["teraflops_per_second"] = reached / 1e12
      numbers["mfu"] = reached / self._peak
    held = [
      (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
      for device in jax.local_devices()
    ]
    if max(held):
      numbers["peak_memory_gib"] = max(held) / 2**30
    return numbers
