"""Continuations on the terminal and in a file."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.runs.continuation import Continuation, TextGenerator
from calm_jax.runs.drafted import DraftedGenerator
from calm_jax.runs.provenance import provenance
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.workflows.drafting import Drafting, describe, sentence, timed
from calm_jax.workflows.judging import format_judgement


def run_generation(
  run: LoadedRun,
  prompts: Sequence[str],
  settings: SamplingSettings,
  *,
  seed: int = 0,
  drafting: Drafting | None = None,
  save_fn: Callable[[dict[str, Any]], None] | None = None,
  judge_fn: Callable[[list[tuple[str, str]]], dict[str, Any]] | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Continues prompts and prints them.

  Args:
    run: as loaded.
    prompts: texts.
    settings: how to sample.
    seed: of all draws.
    drafting: a next-vector model that drafts for this token model. None: none.
    save_fn: takes the result before anything is printed, for a terminal that
      is gone or a reader that has closed the pipe must not lose it. None: a
      single text appears as it comes.
    judge_fn: scores prompts with their continuations, see `judging.Judge`; all
      processes call it. What it gives is added as `judgement`; where it fails,
      the texts are saved and printed before its error is raised.
    **options: of `TextGenerator.continue_prompts`.

  Returns:
    What a result file holds: `continuations`, `settings`, provenance, and
    with drafts `drafts`.

  Raises:
    ValueError: if run, settings and prompts do not fit.
  """
  if drafting is None:
    generator = TextGenerator(run, settings)
  else:
    generator = DraftedGenerator(run, drafting.run, settings, drafting.settings)
  is_timed = drafting is not None and drafting.is_timed
  is_silent = jax.process_index() > 0  # the first process prints
  is_alone = len(prompts) * options.get("num_samples", 1) == 1
  streams = is_alone and save_fn is None and not is_timed
  unseen = list(prompts)  # shown with the first new text, not before an error

  def show(row: int, text: str) -> None:
    del row
    if not is_silent:
      print("".join(unseen) + text, end="", flush=True)
    unseen.clear()

  times: dict[str, Any] = {}
  if is_timed:
    found, times = timed(
      run, generator, prompts, settings, seed=seed, **options
    )
  else:
    found = generator.continue_prompts(
      prompts, seed=seed, text_fn=show if streams else None, **options
    )
  pairs = [
    (prompt, one)
    for prompt, continuations in zip(prompts, found, strict=True)
    for one in continuations
  ]
  result = {
    "continuations": [
      {"prompt": prompt, **one._asdict()} for prompt, one in pairs
    ],
    "settings": dataclasses.asdict(settings),
    **provenance(run, data_hash=None, seed=seed),
  }
  if drafting is not None:
    drafts = describe(drafting, [one for _, one in pairs]) | times
    result["drafts"] = drafts

  def save() -> None:
    if save_fn is not None and not is_silent:
      save_fn(result)

  def tell() -> None:
    if is_alone:
      show(0, "\n" if streams else f"{pairs[0][1].text}\n")
    else:
      for number, (prompt, one) in enumerate(pairs):
        i, s = divmod(number, len(found[0]))
        print(f"--- prompt {i + 1}, continuation {s + 1} ({one.finish})")
        print(prompt + one.text)
    if drafting is None:
      _report([one for _, one in pairs], settings)
    else:
      print(sentence(drafts), file=sys.stderr)

  save()
  try:
    if judge_fn is not None:
      texts = [(prompt, one.text) for prompt, one in pairs]
      result["judgement"] = judge_fn(texts)
      save()
  finally:  # a text that cannot be scored is a text all the same
    if not is_silent:
      tell()
  if judge_fn is not None and not is_silent:
    print(format_judgement(result["judgement"]))
  return result


def _report(found: list[Continuation], settings: SamplingSettings) -> None:
  """Says where the temperature is not what was asked for."""
  if ended := sum(one.finish == "spent" for one in found):
    print(
      f"note: {ended} of {len(found)} continuations ended early, because the"
      f" exact method found no chunk within {settings.max_draws} draws at"
      f" temperature {settings.temperature}; give a larger --max_draws, a"
      " temperature nearer to 1/2 or 1, or --when_spent=batch.",
      file=sys.stderr,
    )
  elif spent := sum(one.num_spent for one in found):
    print(
      f"note: {spent} chunks were drawn by the batch method, because the exact"
      f" one spent its budget of {settings.max_draws} draws.",
      file=sys.stderr,
    )
  if fallbacks := sum(one.num_fallbacks for one in found):
    print(
      f"note: for {fallbacks} chunks no candidate came up often enough for this"
      " temperature, and one of the most frequent was taken; more candidates"
      " help.",
      file=sys.stderr,
    )
