"""Answers multiple-choice questions with a next-vector or token model.

  python -m launch.choose --checkpoint=RUN --task=hellaswag_val.jsonl \\
      --output=hellaswag.json

The file is one of HellaSwag, PIQA, ARC, WinoGrande or LAMBADA as published, or
has lines {"context": …, "choices": […], "answer": 0}, whose choices are put
behind the context as they stand. A token model scores a text by its likelihood.
A next-vector model has none: its samples are compared with the text, by
--estimate=energy, kernel, decoder or match, and all are reported. None of them
is a perplexity. --against=OTHER.json compares with another run's result of the
same questions.

  python -m launch.choose --checkpoint=RUN --make_task=cloze.jsonl \\
      --data=held_out.jsonl

makes questions of any text: the real continuation against three from elsewhere.

All devices share the texts. On several hosts each starts the command with
--distributed; the first one prints and writes.
"""

from absl import flags

from calm_jax.evaluation.result_file import check_output, read_result, writer
from launch import distributed, entry, mesh

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run directory.")
_STEP = flags.DEFINE_integer("step", None, "Saved step; the newest if absent.")
_TASK = flags.DEFINE_string("task", None, "File of questions.")
_NUM_EXAMPLES = flags.DEFINE_integer(
  "num_examples", 0, "Answered questions of the file before each (shots)."
)
_NUM_ITEMS = flags.DEFINE_integer(
  "num_items",
  None,
  "Questions, spread over the file; absent: all. With --make_task: 400.",
)
_NUM_SAMPLES = flags.DEFINE_integer(
  "num_samples", 64, "Draws of each chunk, at least 2; next-vector models."
)
_ESTIMATE = flags.DEFINE_string(
  "estimate", None, "energy (default), kernel, decoder, match or density."
)
_BANDWIDTH = flags.DEFINE_float(
  "bandwidth", None, "Of the kernel, in posterior standard deviations."
)
_PARTIAL = flags.DEFINE_string(
  "partial",
  "marginal",
  "A chunk that the text fills in part: marginal over what follows, or end:"
  " filled with end ids.",
)
_AGAINST = flags.DEFINE_string(
  "against", None, "Result of another run on the same questions."
)
_BATCH_SIZE = flags.DEFINE_integer(
  "batch_size", 8, "Texts at once on a device."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of examples and draws.")
_MUTUAL = flags.DEFINE_bool(
  "mutual", True, "Also by score minus score behind no context; twice the work."
)
_MAKE_TASK = flags.DEFINE_string(
  "make_task", None, "Write questions about --data to this file, and end."
)
_DATA = flags.DEFINE_string(
  "data", None, "With --make_task: prepared directory, or text files."
)
_SPLIT = flags.DEFINE_string("split", "valid", "Of a prepared directory.")
_NUM_CHUNKS = flags.DEFINE_integer(
  "num_chunks", 4, "With --make_task: of each continuation."
)
_NUM_CONTEXT_CHUNKS = flags.DEFINE_integer(
  "num_context_chunks", 32, "With --make_task: of each context."
)
_NUM_CHOICES = flags.DEFINE_integer(
  "num_choices", 4, "With --make_task: continuations of each question."
)
_AT_WORDS = flags.DEFINE_bool(
  "at_words",
  False,
  "With --make_task: continuations begin where words do; anywhere if absent.",
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
flags.mark_flag_as_required("checkpoint")


def main(arguments: list[str]) -> None:
  del arguments
  with distributed.joined():
    _choose()


def _choose() -> None:
  import jax

  from calm_jax.checkpoint.run_directory import load_run
  from calm_jax.randomness import check_seed
  from calm_jax.runs.text_scorer import ChoiceSettings
  from calm_jax.workflows.choosing import choose, open_task

  if jax.process_index() == 0:
    check_output(_OUTPUT.value)
    check_output(_MAKE_TASK.value, "make_task")
  check_seed(_SEED.value)
  if (_TASK.value is None) == (_MAKE_TASK.value is None):
    raise ValueError(
      "give --task=FILE to answer, or --make_task=FILE to write."
    )
  if _MAKE_TASK.value is not None:
    _make_task()
    return
  settings = ChoiceSettings(
    num_samples=_NUM_SAMPLES.value,
    partial=_PARTIAL.value,
    estimate=_ESTIMATE.value,
    bandwidth=_BANDWIDTH.value,
    mutual=_MUTUAL.value,
    seed=_SEED.value,
  )
  task = open_task(
    _TASK.value,
    num_examples=_NUM_EXAMPLES.value,
    num_items=_NUM_ITEMS.value,
    seed=_SEED.value,
  )
  against = read_result(_AGAINST.value) if _AGAINST.value else None
  where = mesh.chosen(_CHECKPOINT.value)
  choose(
    load_run(_CHECKPOINT.value, _STEP.value, where, is_rounded=True),
    task,
    settings,
    num_examples=_NUM_EXAMPLES.value,
    batch_size=_BATCH_SIZE.value,
    against=against,
    save_fn=writer(_OUTPUT.value),
  )


def _make_task() -> None:
  import jax

  from calm_jax.checkpoint.run_directory import RunDirectory
  from calm_jax.workflows.choosing import make_task

  if not _DATA.value:
    raise ValueError("--make_task needs --data, held-out text to cut.")
  if jax.process_index() > 0:
    return
  make_task(
    _MAKE_TASK.value,
    _DATA.value,
    RunDirectory(_CHECKPOINT.value),
    num_chunks=_NUM_CHUNKS.value,
    num_context_chunks=_NUM_CONTEXT_CHUNKS.value,
    split=_SPLIT.value,
    num_choices=_NUM_CHOICES.value,
    num_items=400 if _NUM_ITEMS.value is None else _NUM_ITEMS.value,
    at_words=_AT_WORDS.value,
    seed=_SEED.value,
  )
  print(f"questions are in {_MAKE_TASK.value}")


if __name__ == "__main__":
  entry.run(main)
