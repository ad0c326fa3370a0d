"""Prints what training and planning choose on devices that are not there.

One line of JSON for each line of JSON that it gets: what `run_training` would
compile and what `launch.plan` compiles, by the code of both up to the compiler.
Virtual CPU devices stand for all others.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=512"

import contextlib
import functools
import json
import pathlib
import sys
import tempfile
from types import SimpleNamespace
from unittest import mock

import jax
from absl import flags

from calm_jax.config import VocabularyConfig
from calm_jax.planning import compilation
from calm_jax.planning import plan as plan_lib
from calm_jax.planning.assumptions import complete
from calm_jax.planning.topology import CHIPS, Topology
from calm_jax.training import memory
from calm_jax.training.step import Program
from calm_jax.workflows import training
from launch import plan

_VOCAB_SIZE = 128256
_VOCABULARY = VocabularyConfig(
  size=_VOCAB_SIZE, begin_id=_VOCAB_SIZE - 2, end_id=_VOCAB_SIZE - 1
)
_DEVICES = jax.devices()


class _Chosen(Exception):
  """Ends training where it would compile."""


def _state_bytes(config, program):
  return memory.bytes_of_shards(compilation.argument_shapes(config, program))


def of_training(config, num_devices, num_bytes):
  """Mesh, microbatches and bytes of the state of a new run."""
  found = {}

  def program(config, mesh):
    found["mesh"] = dict(mesh.shape)
    found["num_microbatches"] = config.num_microbatches
    found["state"] = _state_bytes(config, Program(config, mesh))
    raise _Chosen

  device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": num_bytes})
  tokenizer = SimpleNamespace(vocabulary=_VOCABULARY)
  store = SimpleNamespace(tokenizer=tokenizer)
  autoencoder = complete(config, _VOCAB_SIZE).autoencoder
  with contextlib.ExitStack() as stack:
    for where, name, value in (
      (jax, "devices", lambda: _DEVICES[:num_devices]),
      (jax, "local_devices", lambda: [device]),
      (training, "open_sources", lambda data: {"data": store}),
      (training, "_find_autoencoder", lambda *_: (autoencoder, None)),
      (training, "Program", program),
    ):
      stack.enter_context(mock.patch.object(where, name, value))
    stack.enter_context(contextlib.suppress(_Chosen))
    training.run_training(config, "no directory")
  return found


def of_plan(argument, num_devices, num_bytes):
  """The same, as the binary writes it."""

  def step(config, mesh):
    return compilation.CompiledStep(
      is_compiled=True,
      num_parameters=0,
      num_multiplied=0,
      executed_flops=1.0,
      state_bytes=_state_bytes(config, Program(config, mesh)),
      trained_state_bytes=0,
      activation_bytes=0,
      temporary_bytes=0,
      collectives=[],
      notes=[],
    )

  topology = Topology("virtual", CHIPS["v5e"], _DEVICES[:num_devices])
  with contextlib.ExitStack() as stack:
    directory = stack.enter_context(tempfile.TemporaryDirectory())
    output = pathlib.Path(directory, "plan.json")
    arguments = [
      *("plan", f"--config=experiments/{argument}", "--topology=virtual"),
      *(f"--vocab_size={_VOCAB_SIZE}", f"--output={output}"),
    ]
    flags.FLAGS.unparse_flags()
    flags.FLAGS(arguments)
    for where, name, value in (
      (sys, "argv", arguments),
      (sys, "stdout", sys.stderr),
      (plan, "find_topology", lambda _: topology),
      (plan, "available_bytes", lambda _: num_bytes),
      (plan_lib, "available_bytes", lambda _: num_bytes),
      (plan_lib, "compile_step", step),
    ):
      stack.enter_context(mock.patch.object(where, name, value))
    with contextlib.suppress(SystemExit):
      plan.main([])
    written = json.loads(output.read_text())
  config = plan._CONFIG.value
  return config, {
    "mesh": written["mesh"],
    "num_microbatches": written["num_microbatches"],
    "state": written["bytes_by_kind"]["state"],
  }


def _traced_once(function):
  """Of a row, which no mesh changes."""
  known = {}

  @functools.wraps(function)
  def call(config):
    key = config.model, config.num_chunks
    if key not in known:
      known[key] = function(config)
    return known[key]

  return call


def main():
  once = _traced_once(memory.activation_bytes_per_row)
  with mock.patch.object(memory, "activation_bytes_per_row", once):
    for line in sys.stdin:
      argument, *devices = json.loads(line)
      config, planned = of_plan(argument, *devices)
      trained = of_training(config, *devices)
      print(json.dumps([trained, planned]), flush=True)


if __name__ == "__main__":
  main()
