"""Tests workflows/drafting.py and what generation prints of drafts."""

import pytest

from calm_jax.runs.drafted import DraftedContinuation
from calm_jax.sampling.drafter import DraftSettings
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.workflows.drafting import Drafting, summary
from calm_jax.workflows.generation import run_generation
from tests.sampling.tiny_runs import calm_run, token_run


def test_summary():
  found = [
    DraftedContinuation("abcd", [1, 2, 3, 4], "length", 2, [1, 0, 1]),
    DraftedContinuation("ab", [1, 2], "end", 2, [1, 1, 0]),
  ]
  assert summary(found) == {
    "num_tokens": 7,  # an end id among them
    "num_verifications": 4,
    "tokens_per_verification": 7 / 4,
    "acceptance": [0.5, 0.25],
  }


def test_the_text_of_plain_decoding_with_what_drafts_were_worth(capsys):
  run, settings = token_run(num_chunks=200), SamplingSettings()
  options = {"prompts": ["ab", "x"], "settings": settings, "num_tokens": 14}
  plain = run_generation(run, **options)
  expected = capsys.readouterr()
  drafting = Drafting(
    calm_run(4), DraftSettings(num_drafts=5, num_nodes=9), is_timed=True
  )
  saved = []
  result = run_generation(
    run, **options, drafting=drafting, save_fn=saved.append
  )
  printed = capsys.readouterr()
  assert printed.out == expected.out
  assert saved == [result]
  for one, other in zip(
    result["continuations"], plain["continuations"], strict=True
  ):
    for name in ("prompt", "text", "tokens", "finish"):
      assert one[name] == other[name]
  drafts = result["drafts"]
  assert drafts["num_different"] == 0
  assert len(drafts["acceptance"]) == 4
  assert drafts["seconds"] > 0 and drafts["plain_seconds"] > 0
  assert drafts["drafter_hashes"] == calm_run(4).hashes
  assert "plain" not in expected.err
  for words in ("28 tokens in", "each", "without drafts"):
    assert words in printed.err
  alone = {**options, "prompts": ["ab"]}
  run_generation(run, **alone, drafting=drafting._replace(is_timed=False))
  assert plain["continuations"][0]["text"] in capsys.readouterr().out


def test_refuses_what_is_no_pair():
  drafting = Drafting(token_run(), DraftSettings())
  with pytest.raises(ValueError, match="drafts come from"):
    run_generation(
      token_run(), ["ab"], SamplingSettings(), num_tokens=4, drafting=drafting
    )
