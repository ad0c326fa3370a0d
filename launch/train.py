"""Trains an autoencoder, a next-vector model or the token baseline.

    python -m launch.train --config=experiments/autoencoder.py:tiny \\
      --config.data.path=DATA --workdir=RUN

The same command again goes on where the run stopped, on other devices, too.
A field of the config that holds a number, a word or a switch is a flag:
--config.model.num_layers=4. Kinds of parts stand in the experiment's argument,
:tiny,head=flow; the vocabulary comes from the data; data.sources, several
prepared directories, stand in an experiment file. --print_config shows what all
that amounts to, and ends.

Mesh and microbatches are chosen for the devices there are, but for the sizes
that --config.mesh.fsdp, its like and --config.num_microbatches give. On several
hosts each starts the command with --distributed, and with addresses where the
cluster does not tell them.
"""

import json
import sys

from absl import flags
from ml_collections import config_flags

from calm_jax import config_file
from launch import distributed, entry, flag_errors

_CONFIG = config_flags.DEFINE_config_file(
  "config", help_string="Experiment file, with its argument after a colon."
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Run directory: new, or one to go on with."
)
_INITIAL_RUN = flags.DEFINE_string(
  "initial_run", None, "Run whose parameters a new run starts from."
)
_INITIAL_EMBEDDING = flags.DEFINE_string(
  "initial_embedding",
  None,
  "Run whose table of input ids alone a new run starts from, also a run of"
  " another kind of model.",
)
_PROFILE = flags.DEFINE_string(
  "profile",
  None,
  "Steps to trace for XProf, as start:stop, such as 20:25; written to"
  " WORKDIR/profile.",
)
_ALLOW_CHANGE = flags.DEFINE_list(
  "allow_change",
  [],
  "Fields that may change when a run goes on, such as optimizer.learning_rate;"
  " config.json keeps what they were.",
)
_PRINT_CONFIG = flags.DEFINE_bool(
  "print_config", False, "Print the config, with all flags in it, and end."
)
flags.mark_flag_as_required("config")


def main(arguments: list[str]) -> None:
  del arguments
  flag_errors.check_config(_CONFIG.value, sys.argv)
  if _PRINT_CONFIG.value:
    config = config_file.to_dict(config_file.check_types(_CONFIG.value))
    print(json.dumps(config, indent=2, ensure_ascii=False))
    return
  if _WORKDIR.value is None:
    raise ValueError("--workdir is missing; --help says what to give.")
  import jax  # see entry: --help is there at once

  from calm_jax.workflows.training import run_training

  profile = _parse_steps(_PROFILE.value) if _PROFILE.value else None
  with distributed.joined():
    result = run_training(
      _CONFIG.value,
      _WORKDIR.value,
      initial_run=_INITIAL_RUN.value,
      initial_embedding=_INITIAL_EMBEDDING.value,
      profile=profile,
      allow_change=_ALLOW_CHANGE.value,
    )
  if jax.process_index() == 0:
    words = {
      "finished": "finished at",
      "stopped": "stopped by a signal and saved; the same command goes on from",
      "data ended": "the data ended; finished at",
    }
    print(
      f"{words[result.reason]} step {result.step}: {_WORKDIR.value}",
      file=sys.stderr,
    )


def _parse_steps(text: str) -> range:
  start, _, stop = text.partition(":")
  if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
    raise ValueError(
      f"--profile={text} should be start:stop with start below stop, such as"
      " --profile=20:25."
    )
  return range(int(start), int(stop))


if __name__ == "__main__":
  entry.run(main)
