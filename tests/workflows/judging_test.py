"""Perplexity stands beside the diversity of generated and of real text."""

import json

import numpy as np
import pytest

from calm_jax.runs.text_scorer import ChoiceSettings, TextScorer
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.workflows.generation import run_generation
from calm_jax.workflows.judging import Judge, format_judgement
from tests.sampling.tiny_runs import calm_run, token_run


def test_generated_and_real_text_are_measured_alike(tmp_path):
  run = token_run(num_chunks=64)
  data = tmp_path / "real.jsonl"
  text = " ".join(f"word{i}" for i in range(400))
  data.write_text(json.dumps({"text": text}) + "\n")
  texts = [("It was", " so so so"), ("It is", " so so so"), ("", "")]
  found = Judge(run, str(data))(texts)
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


def test_what_cannot_be_judged_is_refused_before_there_are_texts():
  with pytest.raises(ValueError, match="has no likelihoods"):
    Judge(calm_run(), "none")
  with pytest.raises(FileNotFoundError, match="none"):
    Judge(token_run(num_chunks=64), "none")


def test_a_text_that_cannot_be_judged_is_saved_and_printed(tmp_path, capsys):
  run, saved = token_run(num_chunks=64), []
  data = tmp_path / "real.txt"
  data.write_text("a")
  options = {"num_tokens": 4, "save_fn": lambda it: saved.append(dict(it))}
  settings = SamplingSettings()
  with pytest.raises(ValueError, match="give longer documents"):
    run_generation(
      run, ["ab"], settings, judge_fn=Judge(run, str(data)), **options
    )
  (one,) = saved[0]["continuations"]
  assert capsys.readouterr().out == f"ab{one['text']}\n"
  data.write_text(" ".join(f"word{i}" for i in range(400)))
  judge = Judge(run, str(data))
  run_generation(run, ["ab"], settings, judge_fn=judge, **options)
  assert ["judgement" in it for it in saved] == [False, False, True]
  with pytest.raises(ValueError, match="all continuations are empty"):
    judge([("a", "")])
