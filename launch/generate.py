"""Continues prompts with a next-vector or token model.

  python -m launch.generate --checkpoint=RUN --prompt='The class' \\
      --num_tokens=128 --temperature=0.5 --num_candidates=200

A next-vector model has no likelihoods: --method=batch draws that many
candidate chunks and prefers those that come up often; --method=exact draws
until chunks agree, which is exact and can take very many draws; hybrid takes
the first candidates that agree, as exact does, and where none do chooses as
batch does (it is batch at temperatures other than 1/2, 1/3, … 1/16). Text goes
to stdout as it comes; with --output all of it goes to a JSON file first.

--score_with=TOKEN_RUN --score_data=TEXT gives the perplexity of what was
written under a token run, with the entropy and the variety of the same text,
and all of it for real text beside: a low perplexity at a low entropy is
repetition.

A token model may be given a next-vector model of the same tokenizer that drafts
for it: --drafter=RUN --num_drafts=4. The text is what it writes alone with the
same seed; --compare_plain says what was gained. See docs/drafting.md.

All devices share the continuations. On several hosts each starts the command
with --distributed; the first one prints and writes.
"""

from absl import flags

from calm_jax.evaluation.result_file import check_output, writer
from calm_jax.sampling.settings import SamplingSettings
from launch import distributed, drafting, entry, mesh

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run directory.")
_STEP = flags.DEFINE_integer("step", None, "Saved step; the newest if absent.")
_PROMPT = flags.DEFINE_string("prompt", "", "Text to continue; may be empty.")
_PROMPTS_FILE = flags.DEFINE_string(
  "prompts_file", None, "File with one prompt a line, instead of --prompt."
)
_NUM_TOKENS = flags.DEFINE_integer("num_tokens", 128, "New tokens at most.")
_NUM_SAMPLES = flags.DEFINE_integer(
  "num_samples", 1, "Continuations of each prompt."
)
_STOP = flags.DEFINE_multi_string(
  "stop", [], "Text that ends a continuation; may be given several times."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of all draws.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_TEMPERATURE = flags.DEFINE_float(
  "temperature", 0.5, "0 < T <= 1 for next-vector models; 1 is the model."
)
_METHOD = flags.DEFINE_string("method", "hybrid", "batch, exact or hybrid.")
_NUM_CANDIDATES = flags.DEFINE_integer(
  "num_candidates", 200, "Chunks the batch method draws for each it keeps."
)
_MAX_DRAWS = flags.DEFINE_integer(
  "max_draws", 20_000, "Budget of the exact method for each chunk."
)
_WHEN_SPENT = flags.DEFINE_string(
  "when_spent",
  "stop",
  "At a spent budget: stop the continuation, or go on by the batch method.",
)
_NOISE_SCALE = flags.DEFINE_float(
  "noise_scale", 1.0, "Factor on the head's noise, a cheap heuristic."
)
_TOP_K = flags.DEFINE_integer("top_k", 0, "Token models; 0: all tokens.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Token models; 1: all tokens.")
_SCORE_WITH = flags.DEFINE_string(
  "score_with", None, "Token run that scores the continuations."
)
_SCORE_DATA = flags.DEFINE_string(
  "score_data", None, "With --score_with: real text, to be scored beside them."
)
flags.mark_flag_as_required("checkpoint")


def main(arguments: list[str]) -> None:
  del arguments
  with distributed.joined():
    _generate()


def _generate() -> None:
  import jax

  from calm_jax.checkpoint.run_directory import load_run
  from calm_jax.sampling.prompt import read_prompts
  from calm_jax.workflows.generation import run_generation
  from calm_jax.workflows.judging import Judge

  if jax.process_index() == 0:
    check_output(_OUTPUT.value)
  if bool(_SCORE_WITH.value) != bool(_SCORE_DATA.value):
    raise ValueError(
      "give --score_with=TOKEN_RUN and --score_data=TEXT together: a perplexity"
      " says little without that of real text."
    )
  settings = SamplingSettings(
    temperature=_TEMPERATURE.value,
    method=_METHOD.value,
    num_candidates=_NUM_CANDIDATES.value,
    max_draws=_MAX_DRAWS.value,
    when_spent=_WHEN_SPENT.value,
    noise_scale=_NOISE_SCALE.value,
    top_k=_TOP_K.value,
    top_p=_TOP_P.value,
  )
  prompts = [_PROMPT.value]
  if _PROMPTS_FILE.value is not None:
    if _PROMPT.value:
      raise ValueError("give --prompt or --prompts_file, not both.")
    prompts = read_prompts(_PROMPTS_FILE.value)
  names = [_CHECKPOINT.value, _SCORE_WITH.value, *drafting.runs()]
  place = mesh.chosen(*filter(None, names))
  judge_fn = None
  if _SCORE_WITH.value:
    scoring_run = load_run(_SCORE_WITH.value, mesh=place, is_rounded=True)
    judge_fn = Judge(scoring_run, _SCORE_DATA.value, seed=_SEED.value)
  run_generation(
    load_run(_CHECKPOINT.value, _STEP.value, place, is_rounded=True),
    prompts,
    settings,
    drafting=drafting.chosen(place),
    num_tokens=_NUM_TOKENS.value,
    num_samples=_NUM_SAMPLES.value,
    stop=_STOP.value,
    seed=_SEED.value,
    save_fn=writer(_OUTPUT.value),
    judge_fn=judge_fn,
  )


if __name__ == "__main__":
  entry.run(main)
