"""What the devices send each other, read from the text of a compiled program.

The text is a list of computations; a loop names the one that is its body. A
collective counts once for every time that its computation runs in a step.
"""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

# Bytes that a device has to receive, as a share of the bytes of the larger of
# the collective's input and output, in a group of n devices.
_RECEIVED = {
  "all-gather": lambda n: (n - 1) / n,
  "reduce-scatter": lambda n: (n - 1) / n,
  "all-reduce": lambda n: 2 * (n - 1) / n,
  "all-to-all": lambda n: (n - 1) / n,
  "collective-permute": lambda n: 1.0,
}
_ITEM_BYTES = {"pred": 1, "bf16": 2}  # others say it: f32, s8, u64

_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%(?P<name>\S+) = (?P<type>.+?) (?P<kind>[a-z][a-z-]*)\("
)
_COLLECTIVE = re.compile(rf"({'|'.join(_RECEIVED)})(?:-start)?$")
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{$")
_CALLED = re.compile(
  r"(?:calls|to_apply|branch_computations|called_computations)="
  r"(?:%([\w.-]+)|\{([^}]*)\})"
)
_LOOP = re.compile(r"condition=%([\w.-]+), body=%([\w.-]+)")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
  """All collectives of one kind, over groups of one size, in one place."""

  kind: str  # all-gather, reduce-scatter, …
  group_size: int  # devices that take part together
  where: str  # part of the model that asks for it
  count: int  # in one step
  bytes: int  # of the larger of input and output, on a device, in one step

  @property
  def received_bytes(self) -> float:
    """The least that a device has to receive in one step."""
    return self.bytes * _RECEIVED[self.kind](self.group_size)


class _Computation(NamedTuple):
  lines: list[str]
  is_entry: bool


def find_collectives(text: str, num_devices: int) -> list[Collective]:
  """Finds what one step of one device sends and receives.

  Args:
    text: of `jax.stages.Compiled.as_text`.
    num_devices: of the mesh.

  Returns:
    One entry for each kind, group size and place, the most bytes first.
  """
  computations = _split_computations(text)
  times = _run_counts(computations)
  found: dict[tuple, tuple[int, int]] = {}
  for name, computation in computations.items():
    for match, line in _collectives_of(computation.lines):
      kind = _COLLECTIVE.match(match["kind"])[1]
      # The start of one that goes on meanwhile gives input and output.
      join = max if match["kind"].endswith("-start") else sum
      size = join(_shape_bytes(match["type"]))
      if name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # the TPU compiler's form of it
      channel = re.search(r"channel_id=(\d+)", line)
      # One that overlaps with computation stands in the text three times, in
      # its start, beside what goes on meanwhile, and in its end.
      key = (kind, channel[1] if channel else "", size)
      if kind == "collective-permute" or not channel:
        key += (match["name"],)
      entry = (times[name], size, _group_size(line, num_devices), _where(line))
      found[key] = max(found.get(key, entry), entry)
  counts, sizes = collections.Counter(), collections.Counter()
  for (kind, *_), (count, size, group_size, where) in found.items():
    if group_size > 1:
      counts[kind, group_size, where] += count
      sizes[kind, group_size, where] += count * size
  return [
    Collective(*key, counts[key], size) for key, size in sizes.most_common()
  ]


def _split_computations(text: str) -> dict[str, _Computation]:
  computations, lines = {}, []
  for line in text.splitlines():
    header = _COMPUTATION.match(line)
    if header:
      lines = []
      computations[header[2]] = _Computation(lines, bool(header[1]))
    elif line.startswith(" "):
      lines.append(line)
  return computations


def _run_counts(computations: Mapping[str, _Computation]) -> dict[str, int]:
  """How often each computation runs in one step."""
  calls = {
    name: list(_calls(c, computations)) for name, c in computations.items()
  }
  counts = {name: int(c.is_entry) for name, c in computations.items()}
  # A computation stands before all that call it.
  for name in reversed(list(computations)):
    for called, times in calls[name]:
      counts[called] += times * counts[name]
  return counts


def _calls(
  computation: _Computation, computations: Mapping[str, _Computation]
) -> Iterator[tuple[str, int]]:
  for line in computation.lines:
    for loop in _LOOP.finditer(line):
      yield loop[2], _trip_count(computations[loop[1]].lines)
    for match in _CALLED.finditer(line):
      for name in re.findall(r"[\w.-]+", match[1] or match[2]):
        if name in computations:
          yield name, 1


def _trip_count(condition: list[str]) -> int:
  """The bound that a loop's counter, from 0 on, is compared with."""
  bounds = re.findall(r" = s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
  return max(map(int, bounds), default=1)


def _collectives_of(lines: list[str]) -> Iterator[tuple[re.Match, str]]:
  for line in lines:
    match = _INSTRUCTION.match(line)
    if match and _COLLECTIVE.match(match["kind"]):
      yield match, line


def _shape_bytes(shapes: str) -> list[int]:
  """Bytes of each array in a type; of a tuple, of all members."""
  sizes = []
  for kind, axes in _SHAPE.findall(shapes):
    bits = re.search(r"\d+$", kind)
    item = _ITEM_BYTES.get(kind) or math.ceil(int(bits[0]) / 8 if bits else 4)
    sizes.append(item * math.prod(int(n) for n in axes.split(",") if n))
  return sizes or [0]


def _group_size(line: str, num_devices: int) -> int:
  """Devices that exchange with each other."""
  mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line)
  if mesh:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"\w+", mesh[2]))
  groups = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
  if groups:
    return int(groups[2])
  groups = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
  return len(groups[1].split(",")) if groups else num_devices


def _where(line: str) -> str:
  """The part of the model, such as backbone or head, and the direction."""
  name = re.search(r'op_name="([^"]*)"', line)
  if not name:
    return "other"
  is_backward = "transpose(" in name[1]
  for part in (
    "backbone",
    "chunk_embed",
    "head",
    "encoder",
    "decoder",
    "embedding",
    "output",
  ):
    if re.search(rf"\b{part}\b", name[1]):
      return f"{part}, {'backward' if is_backward else 'forward'}"
  return "other"
