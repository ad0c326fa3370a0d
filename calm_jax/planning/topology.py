"""TPU slices that need not be there: their devices, and what a chip can do."""

import importlib.metadata
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from calm_jax.training.peak import PEAK_FLOPS


class Chip(NamedTuple):
  """What its maker says of a chip (cloud.google.com/tpu/docs).

  Of a chip that JAX shows as several devices: their share of it.
  """

  flops_per_second: float  # bfloat16 matrix products
  memory_bytes_per_second: float
  network_bytes_per_second: float  # received, over all links to other chips
  num_axes: int  # of the torus
  example: str  # a topology
  num_devices: int = 1  # of JAX, its cores


CHIPS = {
  "v5e": Chip(PEAK_FLOPS["TPU v5e"], 819e9, 200e9, 2, "v5e:16x16"),
  "v5p": Chip(PEAK_FLOPS["TPU v5"], 2765e9, 600e9, 3, "v5p:4x4x4"),
  "v6e": Chip(PEAK_FLOPS["TPU v6"], 1640e9, 400e9, 2, "v6e:16x16"),
  # Ironwood: two cores, each with half of memory, traffic and links.
  "tpu7x": Chip(PEAK_FLOPS["TPU7x"], 3690e9, 300e9, 3, "tpu7x:4x4x4", 2),
}


class Topology(NamedTuple):
  """A slice."""

  name: str  # such as v5p:4x4x4
  chip: Chip
  devices: list[jax.Device]  # they compile, but do not run

  @property
  def num_chips(self) -> int:
    return len(self.devices) // self.chip.num_devices


def find_topology(name: str) -> Topology:
  """Describes a slice to the compiler.

  Args:
    name: chip and shape, such as v5p:4x4x4.

  Returns:
    The slice.

  Raises:
    ValueError: if there is no such chip or shape, or no compiler for it.
  """
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
  chip = CHIPS.get(match[1]) if match else None
  if chip is None:
    examples = ", ".join(chip.example for chip in CHIPS.values())
    raise ValueError(
      f"topology {name!r} is not known; give a chip of {', '.join(CHIPS)} and"
      f" its shape, such as {examples}."
    )
  sizes = match[2].split("x")
  if len(sizes) != chip.num_axes:
    raise ValueError(
      f"topology {name!r} has {len(sizes)} axes; slices of {match[1]} have"
      f" {chip.num_axes}, such as {chip.example}."
    )
  # A host has four chips; a slice of one chip is a part of a host.
  is_one = all(int(size) == 1 for size in sizes)
  options = {"chips_per_host_bounds": (1, 1, 1)} if is_one else {}
  try:
    devices = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **options
    ).devices
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f"topology {name!r} cannot be had ({str(error).splitlines()[0]}); shapes"
      f" of {match[1]} are multiples of a host's 2x2, such as {chip.example}."
    ) from None
  except (ImportError, RuntimeError) as error:
    raise ValueError(
      f"the TPU compiler cannot be loaded ({error}); install it with pip"
      " install '.[aot]'."
    ) from None
  return Topology(name, chip, list(devices))


def compiler_versions() -> dict[str, str | None]:
  """Of what a plan depends on; None: not installed."""
  found: dict[str, str | None] = {}
  for name in ("jax", "jaxlib", "libtpu"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found


def available_bytes(topology: Topology) -> int:
  """Memory of a chip that a program may use, as the compiler has it."""
  sharding = SingleDeviceSharding(topology.devices[0])
  too_large = jax.ShapeDtypeStruct((2**40,), jnp.float32, sharding=sharding)
  try:
    jax.jit(jnp.negative).lower(too_large).compile()
  except jax.errors.JaxRuntimeError as error:
    return refused_bytes(str(error))[1]
  raise AssertionError("the compiler took an array of 4 TiB")


def refused_bytes(message: str) -> tuple[int, int]:
  """What a program needs and what there is, from the compiler's refusal.

  Args:
    message: of its RESOURCE_EXHAUSTED.

  Returns:
    Both numbers, in bytes.

  Raises:
    ValueError: if the message has no such numbers.
  """
  number = r"([\d.]+[KMGT]?)"
  for pattern in (
    rf"\({number}\) exceeds available HBM \({number}\)",
    rf"[Uu]sed {number} of {number} hbm",
  ):
    found = re.search(pattern, message)
    if found:
      return _bytes(found[1]), _bytes(found[2])
  raise ValueError(
    "the compiler refused the program for want of memory and gave no numbers:"
    f" {' '.join(message.split())[:300]}"
  )


def _bytes(text: str) -> int:
  power = "KMGT".find(text[-1]) + 1
  return round(float(text.rstrip("KMGT")) * 1024**power)
