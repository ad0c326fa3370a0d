"""Generated text beside real text under a token model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.data.cloze import cloze_items
from calm_jax.evaluation.choices import summarise_choices
from calm_jax.evaluation.diversity import diversity
from calm_jax.evaluation.held_out_text import open_text
from calm_jax.runs.text_scorer import ChoiceSettings, TextScorer

Texts = Sequence[tuple[str, str]]  # prompt and what goes on


class Judge:
  """Perplexity of texts, never without the diversity of the same texts.

  What is wrong before there are texts is refused when it is made: texts are
  long in the making, and should not wait for a file that is not there.
  """

  def __init__(
    self, run: LoadedRun, data: str, *, split: str = "valid", seed: int = 0
  ):
    """Opens the real text.

    Args:
      run: a token run.
      data: real text, a prepared directory or files; as many stretches of it,
        of the continuations' mean length, are judged beside them.
      split: of a prepared directory.
      seed: of the stretches.

    Raises:
      OSError: if the real text cannot be read.
      ValueError: if the run has no likelihoods, or the real text is empty or
        of another tokenizer.
    """
    if not run.config.model.has_likelihoods:
      raise ValueError(
        f"--score_with={run.path} holds a model of kind"
        f" {run.config.model.kind!r}, which has no likelihoods; give a token"
        " run."
      )
    store = open_text(data, run.tokenizer)
    self._run = run
    self._hash = store.content_hash
    self._tokens = store.read(split, 0, store.num_tokens(split))
    self._seed = seed

  def __call__(self, texts: Texts) -> dict[str, Any]:
    """Judges texts.

    Args:
      texts: prompts and continuations; empty ones are left out.

    Returns:
      `generated` and `real`: `nats_per_token` with its standard error, by
      bootstrap over continuations, `perplexity`, `num_tokens` and
      `diversity`'s measures. Tokens are those of the token run.

    Raises:
      ValueError: if no text is left, or the real text is too short.
    """
    texts = [(prompt, text) for prompt, text in texts if text]
    if not texts:
      raise ValueError(
        "all continuations are empty: there is nothing to score."
      )
    run, encode = self._run, self._run.tokenizer.encode
    lengths = [len(encode(text)) for _, text in texts]
    prompt = max(1, round(np.mean([len(encode(it)) for it, _ in texts])))
    items = cloze_items(
      self._tokens,
      run.tokenizer,
      context_size=prompt,
      continuation_size=max(1, round(np.mean(lengths))),
      num_choices=2,
      num_items=len(texts),
      seed=self._seed,
    )
    real = [(it["context"], it["choices"][it["answer"]]) for it in items]
    scorer = TextScorer(run, ChoiceSettings(seed=self._seed))
    return {
      "generated": _measured(texts, scorer, run),
      "real": _measured(real, scorer, run),
      "scored_with": str(run.path),
      "data_hash": self._hash,
    }


def format_judgement(result: Mapping[str, Any]) -> str:
  """A line for generated and one for real text."""
  names = ["perplexity", "unigram_entropy", *(f"distinct_{n}" for n in "1234")]
  lines = [f"{'':<12}" + "".join(f"{name:>17}" for name in names)]
  for kind in ("generated", "real"):
    cells = "".join(f"{result[kind][name]:>17.3f}" for name in names)
    lines.append(f"{kind:<12}{cells}")
  return "\n".join(lines)


def _measured(
  texts: Texts, scorer: TextScorer, run: LoadedRun
) -> dict[str, Any]:
  terms = scorer.terms([scorer.encode(*pair) for pair in texts])
  counts = np.array([len(it.log_probability) for it in terms], np.float64)
  nats = np.array([-it.log_probability.sum() for it in terms], np.float64)
  mean = nats.sum() / counts.sum()
  # The error of a ratio of means, to first order.
  error = summarise_choices({"it": (nats - mean * counts) / counts.mean()})
  return {
    "nats_per_token": mean,
    "nats_per_token_stderr": error["it_stderr"],
    "perplexity": math.exp(mean),
    "num_tokens": int(counts.sum()),
    **diversity([run.tokenizer.encode(text).tolist() for _, text in texts]),
  }
