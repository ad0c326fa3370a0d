"""What drafts were worth: tokens a verification, acceptance, time."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.runs.continuation import Continuation, TextGenerator
from calm_jax.runs.drafted import DraftedContinuation, DraftedGenerator
from calm_jax.sampling.drafter import DraftSettings
from calm_jax.sampling.settings import SamplingSettings


class Drafting(NamedTuple):
  """A drafter, and how it is used."""

  run: LoadedRun
  settings: DraftSettings
  is_timed: bool = False  # plain decoding runs too, to compare


def summary(found: Sequence[DraftedContinuation]) -> dict[str, Any]:
  """Counts over continuations.

  Args:
    found: at least one.

  Returns:
    `num_tokens` with the end ids, `num_verifications`,
    `tokens_per_verification`, and `acceptance`, a list of K: the share of
    verifications whose first j drafted tokens were what the model drew.
  """
  counts = np.sum([one.num_accepted for one in found], axis=0)
  num_tokens = sum(len(one.tokens) + (one.finish == "end") for one in found)
  num_verifications = sum(one.num_verifications for one in found)
  at_least = np.cumsum(counts[::-1])[::-1]
  return {
    "num_tokens": num_tokens,
    "num_verifications": num_verifications,
    "tokens_per_verification": num_tokens / num_verifications,
    "acceptance": (at_least[1:] / num_verifications).tolist(),
  }


def describe(drafting: Drafting, found: Sequence[DraftedContinuation]) -> Any:
  """What a result file holds of the drafts."""
  run = drafting.run
  return {
    **summary(found),
    "settings": dataclasses.asdict(drafting.settings),
    "drafter": str(run.path),
    "drafter_step": run.step,
    "drafter_hashes": run.hashes,
  }


def timed(
  run: LoadedRun,
  drafted: DraftedGenerator,
  prompts: Sequence[str],
  settings: SamplingSettings,
  **options: Any,
) -> tuple[list[list[DraftedContinuation]], dict[str, Any]]:
  """Decodes with drafts and without, each twice: the first time compiles.

  Args:
    run: the token model.
    drafted: decodes with drafts.
    prompts: texts.
    settings: how to sample.
    **options: of `TextGenerator.continue_prompts`.

  Returns:
    The continuations, and `seconds`, `plain_seconds` and `num_different`, the
    continuations whose ids are not the same: 0 but for numerical ties.
  """
  found, seconds = [], []
  for generator in (drafted, TextGenerator(run, settings)):
    generator.continue_prompts(prompts, **options)
    start = time.perf_counter()
    found.append(generator.continue_prompts(prompts, **options))
    seconds.append(time.perf_counter() - start)
  pairs = zip(*map(_flat, found), strict=True)
  return found[0], {
    "seconds": seconds[0],
    "plain_seconds": seconds[1],
    "num_different": sum(one.tokens != other.tokens for one, other in pairs),
  }


def sentence(drafts: dict[str, Any]) -> str:
  """What `describe` and `timed` found, for the terminal."""
  acceptance = " ".join(f"{100 * it:.0f}" for it in drafts["acceptance"])
  text = (
    f"drafts: {drafts['num_tokens']} tokens in {drafts['num_verifications']}"
    f" verifications, {drafts['tokens_per_verification']:.2f} each; the first"
    f" 1, 2, … drafted tokens accepted in {acceptance} % of them"
  )
  if "seconds" not in drafts:
    return text
  ratio = drafts["plain_seconds"] / drafts["seconds"]
  text += (
    f"; {drafts['seconds']:.2f} s against {drafts['plain_seconds']:.2f} s"
    f" without drafts ({ratio:.2f}×)"
  )
  if drafts["num_different"]:
    text += (
      f"; {drafts['num_different']} continuations differ from plain decoding,"
      " by a numerical tie"
    )
  return text


def _flat(found: Sequence[Sequence[Continuation | DraftedContinuation]]) -> Any:
  return [one for continuations in found for one in continuations]
