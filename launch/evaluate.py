"""Scores a run on held-out text and writes a result file.

  python -m launch.evaluate --checkpoint=RUN --data=PREPARED --split=valid \\
      --output=result.json --permuted

An autoencoder gets the share of tokens and chunks it gives back; a next-vector
or token model gets Brier-1 … 4 and BrierLM, each with a standard error. With
--positions=grid:8 models of any chunk size are scored at the same places.

With --follow it waits beside a live run for its checkpoints, and with --steps
it takes those of a list; the output then has one line of JSON a step, and the
same command again goes on where it was stopped.

All devices share the rows. On several hosts each starts the command with
--distributed; the first one prints and writes.
"""

from absl import flags

from calm_jax.evaluation.result_file import check_output, writer
from launch import distributed, entry, mesh

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run directory.")
_STEP = flags.DEFINE_integer("step", None, "Saved step; the newest if absent.")
_DATA = flags.DEFINE_string(
  "data",
  None,
  "Prepared directory, or text files as launch.prepare takes them.",
)
_SPLIT = flags.DEFINE_string("split", "valid", "Of a prepared directory.")
_FOLLOW = flags.DEFINE_bool(
  "follow", False, "Score each step as a live run saves it."
)
_STEPS = flags.DEFINE_list("steps", None, "Saved steps to score: 100,200.")
_WAIT_SECONDS = flags.DEFINE_float(
  "wait_seconds", None, "With --follow: give up after so long without a step."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_NUM_ROWS = flags.DEFINE_integer(
  "num_rows", None, "Windows to score, spread over the data; absent: all."
)
_ROW_LENGTH = flags.DEFINE_integer(
  "row_length", None, "Tokens of a window; that of training if absent."
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 8, "Windows at once on a device."
)
_NUM_SAMPLES = flags.DEFINE_integer(
  "num_samples", 16, "Independent samples of each position, at least 2."
)
_POSITIONS = flags.DEFINE_string(
  "positions", "paper", "paper (after every chunk) or grid:8 (every 8 tokens)."
)
_PERMUTED = flags.DEFINE_bool(
  "permuted", False, "Also score with the context of another window."
)
_LAST_CHUNK = flags.DEFINE_bool(
  "last_chunk", False, "Also score with the context cut to its last chunk."
)
_NOISE_SCALE = flags.DEFINE_float(
  "noise_scale", 1.0, "Factor on the head's noise; 1 is the model."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of all draws.")
flags.mark_flags_as_required(["checkpoint", "data"])


def main(arguments: list[str]) -> None:
  del arguments
  with distributed.joined():
    _evaluate()


def _evaluate() -> None:
  import jax

  from calm_jax.checkpoint.run_directory import load_run
  from calm_jax.evaluation.prediction import PredictionSettings
  from calm_jax.workflows import scoring

  if jax.process_index() == 0:
    check_output(_OUTPUT.value)
  settings = PredictionSettings(
    num_samples=_NUM_SAMPLES.value,
    positions=_POSITIONS.value,
    permuted=_PERMUTED.value,
    last_chunk=_LAST_CHUNK.value,
    noise_scale=_NOISE_SCALE.value,
    seed=_SEED.value,
  )
  others = {
    "split": _SPLIT.value,
    "row_length": _ROW_LENGTH.value,
    "num_rows": _NUM_ROWS.value,
    "batch_size": _BATCH_SIZE.value,
  }
  if _WAIT_SECONDS.value is not None and not _FOLLOW.value:
    raise ValueError("--wait_seconds goes with --follow alone; leave it out.")
  if _WAIT_SECONDS.value is not None and not _WAIT_SECONDS.value >= 0:
    raise ValueError(
      f"--wait_seconds is {_WAIT_SECONDS.value:g}; give seconds, 0 or more."
    )
  if _FOLLOW.value or _STEPS.value is not None:
    if _STEP.value is not None:
      raise ValueError(
        "--step is one step; with --follow or --steps leave it out."
      )
    scoring.score_steps(
      _CHECKPOINT.value,
      _OUTPUT.value,
      _DATA.value,
      settings,
      is_live=_FOLLOW.value,
      steps=_STEPS.value,
      wait_seconds=_WAIT_SECONDS.value,
      mesh=mesh.chosen(_CHECKPOINT.value),
      **others,
    )
    return
  where = mesh.chosen(_CHECKPOINT.value)
  run = load_run(_CHECKPOINT.value, _STEP.value, where, is_rounded=True)
  scoring.score(
    run, _DATA.value, settings, save_fn=writer(_OUTPUT.value), **others
  )


if __name__ == "__main__":
  entry.run(main)
