"""A directory of plans as one Markdown table."""

import pathlib
from typing import Any

from etils import epath

from calm_jax import json_files, paths
from calm_jax.planning.plan import LEFT_OUT

_HEADER = f"""# Plans

Made by `launch/scripts/plan_all.sh`, without a TPU: nothing here ran on a chip.
A plan takes two to five minutes of one core, and took 4 to 13 on two cores
that had other work, too.

Memory is the compiler's own number for the training step. FLOPs are counted as
the paper does. The times are bounds that every step exceeds, from what it has
to multiply, to read and write, and to receive at the chip's full speed; tokens
per second are at most, days and chip-hours at least. Left out are

- of compute: {LEFT_OUT["compute"]};
- of memory: {LEFT_OUT["memory"]};
- of network: {LEFT_OUT["network"]}.

Each run takes 250 k steps of 2.1 M tokens, an autoencoder 30 k of 0.5 M; K = 4
where its name has no K.
Mesh axes of size 1 are left out.

| run | slice | mesh | remat | GiB a chip | FLOPs a step | compute, memory, \
network ms, at least | tokens/s at most | days at least | chip-hours at least |
|---|---|---|---|---|---|---|---|---|---|
"""


def write_table(directory: epath.PathLike) -> pathlib.Path:
  """Writes README.md about the plans, NAME.json, in a directory."""
  directory = pathlib.Path(directory)
  path = directory / "README.md"
  rows = [
    _row(file.stem, json_files.read_json(file))
    for file in sorted(directory.glob("*.json"))
  ]
  paths.write_whole(path, _HEADER + "".join(rows))
  return path


def _row(name: str, plan: dict[str, Any]) -> str:
  mesh = [f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1]
  memory = "{:.1f} of {:.1f}".format(
    *(plan[key] / 1024**3 for key in ("bytes_per_chip", "bytes_available"))
  )
  if plan["fits"]:
    milliseconds = [
      f"{1000 * plan[f'{bound}_seconds']:.0f}"
      for bound in ("compute", "memory", "network")
    ]
    times = [
      ", ".join(milliseconds),
      f"{plan['tokens_per_second']:,.0f}",
      f"{plan['days']:.2f}",
      f"{plan['chip_hours']:,.0f}",
    ]
  else:
    times = ["does not fit", "", "", ""]
  cells = [
    name.removesuffix("-" + plan["topology"].replace(":", "-")),
    plan["topology"],
    " × ".join(mesh) or "one chip",
    plan["remat"],
    memory,
    f"{plan['flops_per_step']:.2e}",
    *times,
  ]
  return f"| {' | '.join(cells)} |\n"
