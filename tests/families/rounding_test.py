"""Tests calm_jax/families/rounding.py: half the bytes, every bit the same."""

import dataclasses

import jax
import numpy as np
import pytest

from calm_jax.config import heads
from calm_jax.data.batch import Row, make_batch
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.families import family_of
from calm_jax.families.rounding import (
  reads_rounded,
  round_params,
  round_run,
)
from calm_jax.runs.continuation import TextGenerator
from calm_jax.sampling.settings import SamplingSettings
from tests.sampling.tiny_runs import autoencoder_run, calm_run, token_run

_RUNS = {
  "autoencoder": autoencoder_run,
  "token": token_run,
  **{
    head: lambda kind=kind: calm_run(head=kind(num_mlp_layers=1))
    for head, kind in heads.HeadConfig.kinds.items()
  },
  "both": lambda: calm_run(inputs="both"),
}


def _in_bfloat16(run):
  change = lambda it: it and dataclasses.replace(it, dtype="bfloat16")
  config = dataclasses.replace(
    run.config,
    model=change(run.config.model),
    autoencoder=change(run.config.autoencoder),
  )
  return dataclasses.replace(run, config=config)


def _rounded(run):
  params, autoencoder = round_run(run.config, run.params, run.autoencoder)
  return dataclasses.replace(run, params=params, autoencoder=autoencoder)


def _scores(run):
  rows = np.random.default_rng(0).integers(97, 101, (3, 32)).astype(np.int32)
  batch = make_batch(
    [Row(row, 0, i) for i, row in enumerate(rows)],
    run.tokenizer.vocabulary,
    row_length=32,
    chunk_size=run.config.model.chunk_size,
    batch_size=3,
  )
  settings = PredictionSettings(num_samples=2)
  scores_fn = family_of(run.config.model).make_scores_fn(run.config, settings)
  return scores_fn(run.params, run.autoencoder, [batch])


def _num_bytes(tree):
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
  "name",
  [
    "autoencoder",
    "token",
    "energy",
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in _RUNS
      if name not in ("autoencoder", "token", "energy")
    ),
  ],
)
def test_rounded_parameters_change_nothing(name):
  run = _in_bfloat16(_RUNS[name]())
  rounded = _rounded(run)
  assert _scores(rounded) == _scores(run)
  assert _num_bytes(rounded.params) < 0.7 * _num_bytes(run.params)
  if run.config.model.predicts:
    settings = SamplingSettings(temperature=0.5, num_candidates=10)
    texts = [
      TextGenerator(it, settings).continue_prompts(["ab"], num_tokens=12)
      for it in (run, rounded)
    ]
    assert texts[0] == texts[1]


def test_what_is_float32_stays_so():
  run = _in_bfloat16(calm_run())
  config = run.config
  reads = reads_rounded(config.model, config.autoencoder)
  head = reads["head"]
  assert not any(jax.tree.leaves(head["outer"]))
  assert head["inner"]["kernel"] and reads["chunk_embed"]["inner"]["kernel"]
  assert reads["chunk_embed"]["embedding"]["embedding"]
  assert not reads["backbone"]["norm"]["norm"]["scale"]
  frozen = reads_rounded(config.autoencoder, None)
  assert not any(jax.tree.leaves(frozen["encoder"]["posterior"]))
  assert frozen["decoder"]["expand"]["kernel"]


def test_a_float32_model_is_left_alone():
  run = calm_run()
  params = round_params(run.config.model, run.config.autoencoder, run.params)
  assert params is run.params
  assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"float32"}
