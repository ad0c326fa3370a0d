"""Perplexity stands beside the diversity of generated and of real text."""

import json

import numpy as np
import pytest

from calm_jax.runs.text_scorer import ChoiceSettings, TextScorer
from calm_jax.workflows.judging import format_judgement, judge
from tests.sampling.tiny_runs import calm_run, token_run


def test_generated_and_real_text_are_measured_alike(tmp_path):
  run = token_run(num_chunks=64)
  data = tmp_path / "real.jsonl"
  text = " ".join(f"word{i}" for i in range(400))
  data.write_text(json.dumps({"text": text}) + "\n")
  texts = [("It was", " so so so"), ("It is", " so so so"), ("", "")]
  found = judge(texts, run, str(data))
  scorer = TextScorer(run, ChoiceSettings())
  rows = [scorer.encode(*pair) for pair in texts[:2]]
  nats = -np.concatenate([it.log_probability for it in scorer.terms(rows)])
  assert found["generated"]["nats_per_token"] == pytest.approx(nats.mean())
  assert found["generated"]["perplexity"] == pytest.approx(np.exp(nats.mean()))
  assert found["generated"]["num_tokens"] == found["real"]["num_tokens"] == 18
  assert (
    found["generated"]["unigram_entropy"] < found["real"]["unigram_entropy"]
  )
  lines = format_judgement(found).splitlines()
  assert [line.split()[0] for line in lines[1:]] == ["generated", "real"]


def test_what_cannot_be_judged_is_refused():
  with pytest.raises(ValueError, match="has no likelihoods"):
    judge([("", "a")], calm_run(), "none")
  with pytest.raises(ValueError, match="all continuations are empty"):
    judge([("a", "")], token_run(num_chunks=64), "none")
