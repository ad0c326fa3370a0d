"""Times every implementation of the same work side by side.

  python -m launch.benchmark --suite=kernels --output=result.json
  python -m launch.benchmark --suite=all --minutes=8 --output=results
  python -m launch.benchmark --against=CHECKOUT --output=result.json

Suites: kernels; train, both stages and their parts; sizes, a step of the models
of experiments/calm.py; generate, against a loop that counts candidates on the
host; evaluate, against one that scores position by position; data, preparing
text and reading batches. Median time, spread, temporary memory, tokens a
second, and where it is known the share of what this device reached in matrix
products, vector arithmetic and copying in the same run. Rows are printed and
written as they come.

--suite=all runs them one after another within --minutes, each as a process with
a time limit; --output is then a directory with a file for each.

--against compares with the code that the paper's authors have published:
training steps of both stages, the energy loss, evaluation and generation.
CHECKOUT is a clone of it. It needs torch, for the GPU if there is one, and
transformers 4.43, which does not go with this package's extra [tokenizers]: in
an environment of its own, pip install torch 'transformers==4.43.*'
"""

import os
import sys

from absl import flags

from benchmarks import parts
from benchmarks.work import SIZES
from calm_jax.evaluation.result_file import check_output, writer
from launch import entry

_SUITE = flags.DEFINE_enum(
  "suite", None, [*parts.SHARES, "all"], "What to measure."
)
_AGAINST = flags.DEFINE_string(
  "against", None, "Checkout of the authors' code to compare with instead."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "JSON file to write; with --suite=all a directory."
)
_SIZE = flags.DEFINE_enum(
  "size",
  "auto",
  ["auto", *SIZES],
  "Of the work; auto: what the device is made for.",
)
_SECONDS = flags.DEFINE_float(
  "seconds",
  None,
  "For which each implementation is repeated; by default 10, and 1 with"
  " --suite=all.",
)
_MINUTES = flags.DEFINE_float("minutes", 8.0, "For --suite=all as a whole.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the inputs.")


def main(arguments: list[str]) -> None:
  del arguments
  from benchmarks import suites
  from benchmarks.against import Against
  from calm_jax.runs import provenance

  if (_SUITE.value is None) == (_AGAINST.value is None):
    raise ValueError("give one of --suite=NAME and --against=CHECKOUT.")
  if _SUITE.value == "all":
    found = parts.run_parts(
      _command, minutes=_MINUTES.value, directory=_OUTPUT.value
    )
    parts.check_parts(found)
    return
  check_output(_OUTPUT.value)
  options = {"name": _SUITE.value}
  if _AGAINST.value:
    against = Against(os.path.expanduser(_AGAINST.value))
    options = {
      "name": "against",
      "suites": {"against": against.run},
      "facts": against.facts,
    }
  print(f"{options['name']} on {provenance.device()}")
  print(suites.format_row(), flush=True)
  result = suites.run_suite(
    **options,
    size=_SIZE.value,
    seed=_SEED.value,
    seconds=10.0 if _SECONDS.value is None else _SECONDS.value,
    row_fn=lambda row: print(suites.format_row(row), flush=True),
    result_fn=writer(_OUTPUT.value),
  )
  for name, reason in result.get("left_out", {}).items():
    print(f"left out: {name} ({reason})")


def _command(name: str, output: str | None) -> list[str]:
  """Runs one of all suites."""
  seconds = 1.0 if _SECONDS.value is None else _SECONDS.value
  return [
    *(sys.executable, "-m", "launch.benchmark", f"--suite={name}"),
    *(f"--size={_SIZE.value}", f"--seed={_SEED.value}"),
    *(f"--seconds={seconds}", *entry.shared_flags()),
    *([f"--output={output}"] if output else []),
  ]


if __name__ == "__main__":
  entry.run(main)
