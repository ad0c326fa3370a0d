"""Draws accuracy against collision for ways to sample colder.

  python -m launch.explore --checkpoint=RUN --data=PREPARED \\
      --baseline=TOKEN_RUN --output=explore.json

Writes the points to the JSON file and the curves to a picture beside it.
--task=QUESTIONS, a file of launch.choose, adds how many are answered rightly
with each noise scale and by the token model at each of its temperatures. Runs
on all devices, see --mesh, and together with the other processes of
--distributed; the first one prints and writes.
"""

from absl import flags

from calm_jax.evaluation.result_file import check_output, write_result
from calm_jax.workflows.explore_settings import ExploreSettings
from launch import distributed, entry, mesh

_DEFAULT = ExploreSettings


def _words(numbers: tuple[float, ...]) -> list[str]:
  return [f"{number:.4g}" for number in numbers]


_CHECKPOINT = flags.DEFINE_string(
  "checkpoint", None, "Run directory of a next-vector model."
)
_STEP = flags.DEFINE_integer("step", None, "Saved step; the newest if absent.")
_BASELINE = flags.DEFINE_string(
  "baseline", None, "Run directory of a token model with the same tokenizer."
)
_DATA = flags.DEFINE_string("data", None, "Prepared directory, or text files.")
_TASK = flags.DEFINE_string(
  "task", None, "Questions to be answered, too; see launch.choose."
)
_SPLIT = flags.DEFINE_string("split", "valid", "Of a prepared directory.")
_OUTPUT = flags.DEFINE_string(
  "output", "explore.json", "JSON file; the picture gets the suffix .png."
)
_TEMPERATURES = flags.DEFINE_list(
  "temperatures", _words(_DEFAULT.temperatures), "Of the batch method."
)
_CANDIDATE_COUNTS = flags.DEFINE_list(
  "candidate_counts", _words(_DEFAULT.candidate_counts), "Of the batch method."
)
_NOISE_SCALES = flags.DEFINE_list(
  "noise_scales", _words(_DEFAULT.noise_scales), "Factors on the head's noise."
)
_BASELINE_TEMPERATURES = flags.DEFINE_list(
  "baseline_temperatures",
  _words(_DEFAULT.baseline_temperatures),
  "Of the token model.",
)
_NUM_SAMPLES = flags.DEFINE_integer(
  "num_samples", _DEFAULT.num_samples, "Where the batch method is not used."
)
_POSITIONS = flags.DEFINE_string(
  "positions", _DEFAULT.positions, "Where to score; see launch.evaluate."
)
_NUM_ROWS = flags.DEFINE_integer("num_rows", _DEFAULT.num_rows, "Windows.")
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", _DEFAULT.batch_size, "Windows at once."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of all draws.")
flags.mark_flags_as_required(["checkpoint", "data"])


def main(arguments: list[str]) -> None:
  del arguments
  with distributed.joined():
    _explore()


def _explore() -> None:
  import jax

  from calm_jax.checkpoint.run_directory import load_run
  from calm_jax.data.choice_items import read_task
  from calm_jax.workflows.explore import explore
  from calm_jax.workflows.explore_picture import (
    check_matplotlib,
    draw_curves,
    picture_path,
  )

  is_first = jax.process_index() == 0
  if is_first:
    check_output(_OUTPUT.value)
    check_matplotlib()
  picture = picture_path(_OUTPUT.value)
  if is_first:
    check_output(str(picture))
  settings = ExploreSettings(
    temperatures=_numbers(_TEMPERATURES),
    candidate_counts=_numbers(_CANDIDATE_COUNTS, int),
    noise_scales=_numbers(_NOISE_SCALES),
    baseline_temperatures=_numbers(_BASELINE_TEMPERATURES),
    num_samples=_NUM_SAMPLES.value,
    positions=_POSITIONS.value,
    num_rows=_NUM_ROWS.value,
    batch_size=_BATCH_SIZE.value,
    split=_SPLIT.value,
    seed=_SEED.value,
  )
  task = read_task(_TASK.value) if _TASK.value else None
  names = [_CHECKPOINT.value, _BASELINE.value]
  where = mesh.chosen(*filter(None, names))
  run = load_run(_CHECKPOINT.value, _STEP.value, where, is_rounded=True)
  baseline = None
  if _BASELINE.value:
    baseline = load_run(_BASELINE.value, mesh=where, is_rounded=True)
  result = explore(run, _DATA.value, settings, baseline=baseline, task=task)
  if not is_first:
    return
  write_result(_OUTPUT.value, result)
  draw_curves(result, picture)
  print(f"{len(result['points'])} points: {_OUTPUT.value}, {picture}")


def _numbers(flag: flags.FlagHolder, kind: type = float) -> tuple:
  try:
    return tuple(map(kind, flag.value or [""]))
  except ValueError:
    raise ValueError(
      f"--{flag.name}={','.join(flag.value)} should be numbers separated by"
      " commas."
    ) from None


if __name__ == "__main__":
  entry.run(main)
