"""Times every implementation of the same work side by side.

  python -m launch.benchmark --suite=kernels --output=result.json

Suites: kernels; train, both stages and their parts; generate, against a loop
that counts candidates on the host; evaluate, against one that scores position
by position; data, preparing text and reading batches. Median time, spread,
temporary memory, tokens a second, and for kernels the share of what this device
reached in matrix products, vector arithmetic and copying in the same run.
"""

from absl import flags

from benchmarks import suites
from calm_jax.evaluation.result_file import check_output, write_result
from launch import entry

_SUITE = flags.DEFINE_enum(
  "suite", None, list(suites.SUITES), "What to measure."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_SIZE = flags.DEFINE_enum(
  "size",
  "auto",
  ["auto", *suites.SIZES],
  "Of the work; auto: what the device is made for.",
)
_SECONDS = flags.DEFINE_float(
  "seconds", 10.0, "For which each implementation is repeated."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the inputs.")
flags.mark_flags_as_required(["suite"])


def main(arguments: list[str]) -> None:
  del arguments
  check_output(_OUTPUT.value)
  print(suites.format_row())
  result = suites.run_suite(
    _SUITE.value,
    size=_SIZE.value,
    seed=_SEED.value,
    seconds=_SECONDS.value,
    row_fn=lambda row: print(suites.format_row(row), flush=True),
  )
  if _OUTPUT.value:
    write_result(_OUTPUT.value, result)


if __name__ == "__main__":
  entry.run(main)
