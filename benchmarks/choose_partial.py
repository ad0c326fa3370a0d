"""How to read a chunk that a candidate fills in part: what ranks better.

  python -m benchmarks.choose_partial RUN TEXT

writes benchmarks/choose/partial.json. Candidates of cloze questions end behind
1 … K − 1 tokens of their last chunk. What follows is left open (marginal) or
filled with end ids (end); questions and draws are the same, errors are paired.
"""

import json
import pathlib
import sys

import numpy as np

from calm_jax.checkpoint.run_directory import LoadedRun, load_run
from calm_jax.data.cloze import cloze_items
from calm_jax.evaluation.choices import (
  Answers,
  columns_of,
  summarise_choices,
)
from calm_jax.evaluation.chunk_terms import PARTIAL, joined
from calm_jax.evaluation.held_out_text import open_text
from calm_jax.evaluation.likelihood import ESTIMATES
from calm_jax.runs.provenance import commit, device, versions
from calm_jax.runs.text_scorer import ChoiceSettings, TextScorer

_TARGET = pathlib.Path(__file__).parent / "choose" / "partial.json"
_NUM_ITEMS, _NUM_CHOICES = 400, 4
_NUM_CONTEXT_CHUNKS, _NUM_WHOLE_CHUNKS = 32, 3
_NAMES = ("accuracy", "accuracy_mutual")


def main() -> None:
  path, data = sys.argv[1:]
  run = load_run(path, None, None, is_rounded=True)
  store = open_text(data, run.tokenizer)
  tokens = store.read("valid", 0, store.num_tokens("valid"))
  size = run.config.model.chunk_size
  rows, pooled = [], []
  for tail in range(1, size):
    items = cloze_items(
      tokens,
      run.tokenizer,
      context_size=_NUM_CONTEXT_CHUNKS * size,
      continuation_size=_NUM_WHOLE_CHUNKS * size + tail,
      num_choices=_NUM_CHOICES,
      num_items=_NUM_ITEMS,
      seed=tail,
    )
    found = [_columns(run, items, partial) for partial in PARTIAL]
    pooled.append(found)
    rows += _rows(str(tail), found)
    print(json.dumps(rows[-len(ESTIMATES) :], indent=1), flush=True)
  whole = [
    {
      key: np.concatenate([found[way][key] for found in pooled])
      for key in pooled[0][way]
    }
    for way in range(len(PARTIAL))
  ]
  rows += _rows("all", whole)
  result = {
    "num_samples": ChoiceSettings().num_samples,
    "step": run.step,
    "commit": commit(),
    "versions": versions(),
    "device": device(),
    "rows": rows,
  }
  _TARGET.write_text(json.dumps(result, indent=1) + "\n")


def _columns(run: LoadedRun, items, partial: str):
  """By (estimate, accuracy) whether each question was answered rightly."""
  scorer = TextScorer(run, ChoiceSettings(partial=partial))
  rows = [
    scorer.encode(context, text)
    for is_bare in (False, True)
    for item in items
    for context in ("" if is_bare else item["context"],)
    for text in item["choices"]
  ]
  texts = joined(scorer.terms(rows))
  result = {}
  for name in ESTIMATES:
    scores = scorer.log_scores(texts, name)
    scores, priors = scores.reshape(2, len(items), _NUM_CHOICES)
    columns = columns_of(
      Answers(
        scores,
        [[1] * _NUM_CHOICES] * len(items),
        [item["answer"] for item in items],
        [False] * len(items),
        priors,
      )
    )
    result |= {(name, key): columns[key] for key in _NAMES}
  return result


def _rows(tail: str, found):
  for name in ESTIMATES:
    row = {"tokens_of_last_chunk": tail, "estimate": name}
    for key in _NAMES:
      ours, theirs = (columns[name, key] for columns in found)
      row["num_items"] = len(ours)
      row |= summarise_choices(
        {
          f"{key}_{PARTIAL[0]}": ours,
          f"{key}_{PARTIAL[1]}": theirs,
          f"{key}_difference": ours - theirs,
        }
      )
    yield row


if __name__ == "__main__":
  main()
