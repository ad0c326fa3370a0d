"""Says whether a run fits on a TPU slice, and how long it takes at least.

  python -m launch.plan --config=experiments/calm.py:xl --topology=v5p:4x4x4 \\
      [--mesh=fsdp=16] [--output=plan.json]
  python -m launch.plan --config=experiments/calm.py:xl --topology=v5p:4x4x4 \\
      --search
  python -m launch.plan --config=experiments/calm.py:xl --topology=v5e:4x4 \\
      --program=generate --rows=16

Compiles the training step itself for that slice; no TPU, no data and no trained
autoencoder is needed, only the extra [aot]. Exit code 0: it fits; 2: it does
not; 1: anything else. The mesh and the number of microbatches are those that
`launch.train` takes on such a slice: what the config gives, and chosen where it
gives nothing; --mesh=fsdp=16 is short for --config.mesh.fsdp=16. With --program
it compiles evaluation or generation instead; parameters are then split over as
few chips as hold them, or as --mesh says.
"""

import os

# Read when JAX is imported: no TPU of this machine is to be looked for.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
# Programs for absent devices can be written to a cache, but not read back.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import dataclasses
import signal
import sys
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

from calm_jax.config_file import check_types
from calm_jax.evaluation.result_file import check_output, write_result
from calm_jax.planning import PROGRAMS
from launch import entry, flag_errors

_CONFIG = config_flags.DEFINE_config_file(
  "config", help_string="Experiment file, with its argument after a colon."
)
_TOPOLOGY = flags.DEFINE_string(
  "topology", None, "Slice, as v5p:4x4x4; of v5e, v5p, v6e, tpu7x."
)
_MESH = flags.DEFINE_string("mesh", None, "Sizes of axes, as data=4,fsdp=16.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_VOCAB_SIZE = flags.DEFINE_integer(
  "vocab_size", 128256, "Where the config names no vocabulary."
)
_PROGRAM = flags.DEFINE_enum(
  "program", "train", ("train", *PROGRAMS), "What is to run there."
)
_ROWS = flags.DEFINE_integer(
  "rows", 8, "With --program: rows of each part of the data axis.", 1
)
_SEARCH = flags.DEFINE_bool("search", False, "Try meshes, remat, microbatches.")
_MAX_COMPILATIONS = flags.DEFINE_integer(
  "max_compilations", 12, "After so many --search ends.", lower_bound=1
)
flags.mark_flags_as_required(["config", "topology"])


def main(arguments: list[str]) -> None:
  del arguments
  from calm_jax.planning import programs
  from calm_jax.planning.assumptions import complete, parse_mesh
  from calm_jax.planning.description import describe, describe_all
  from calm_jax.planning.plan import make_plan
  from calm_jax.planning.search import search
  from calm_jax.planning.topology import available_bytes, find_topology
  from calm_jax.runs.placement import mesh_for
  from calm_jax.scaling.flops import training_flops
  from calm_jax.training.layout import choose_layout
  from calm_jax.training.memory import StepMemory
  from calm_jax.training.sharding import count_slices

  flag_errors.check_config(_CONFIG.value, sys.argv)
  check_output(_OUTPUT.value)
  if _SEARCH.value and _MESH.value:
    raise ValueError("give --mesh or --search, not both.")
  if _SEARCH.value and _PROGRAM.value != "train":
    raise ValueError("--search is for training; leave it or --program out.")
  config = complete(check_types(_CONFIG.value), _VOCAB_SIZE.value)
  sizes = parse_mesh(_MESH.value) if _MESH.value else {}
  topology = find_topology(_TOPOLOGY.value)
  # The compiler, loaded now, would keep Ctrl-C waiting for minutes, and print a
  # page of addresses when it is ended. Nothing is half-written.
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)
  num_devices, num_bytes = len(topology.devices), available_bytes(topology)
  if _PROGRAM.value != "train":
    given = dataclasses.replace(config.mesh, **sizes)
    mesh = mesh_for([config], num_devices, num_bytes, given)
    plan = programs.plan_program(
      _PROGRAM.value,
      dataclasses.replace(config, mesh=mesh),
      topology,
      _ROWS.value,
    )
    print(programs.describe(plan))
    _finish(plan.to_dict(), plan.fits)
  flops = training_flops(config) / config.num_steps

  def plan_fn(config):
    return make_plan(config, topology, flops_per_step=flops)

  if _SEARCH.value:
    plans = search(
      config,
      num_devices,
      plan_fn=plan_fn,
      least_bytes_fn=StepMemory().least,
      num_bytes=num_bytes,
      max_compilations=_MAX_COMPILATIONS.value,
    )
    print(describe_all(plans))
    result = {"plans": [plan.to_dict() for plan in plans]}
    fits = any(plan.fits for plan in plans)
  else:
    mesh = dataclasses.replace(config.mesh, **sizes)
    config = dataclasses.replace(config, mesh=mesh)
    layout = choose_layout(
      config, num_devices, num_bytes, count_slices(topology.devices)
    )
    plan = plan_fn(layout.config)
    print(describe(plan))
    result, fits = plan.to_dict(), plan.fits
  _finish(result, fits)


def _finish(result: dict[str, Any], fits: bool) -> NoReturn:
  if _OUTPUT.value:
    write_result(_OUTPUT.value, result)
  sys.exit(0 if fits else 2)


if __name__ == "__main__":
  entry.run(main)
