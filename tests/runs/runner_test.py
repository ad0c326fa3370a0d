"""Tests evaluation/runner.py: from text to what a result file holds."""

import dataclasses
import json

import numpy as np
import pytest

from calm_jax.checkpoint.run_directory import RunDirectory, load_run
from calm_jax.data.store import TokenStore, prepare
from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.evaluation.held_out_text import open_text, read_files
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.evaluation.result_file import check_output, write_result
from calm_jax.runs.runner import evaluate_run, expected_of
from tests.sampling.tiny_runs import (
  autoencoder_run,
  calm_run,
  save_run,
  token_run,
)

_SETTINGS = PredictionSettings(num_samples=2, permuted=True)


@pytest.fixture(name="files", scope="module")
def fixture_files(tmp_path_factory):
  directory = tmp_path_factory.mktemp("text")
  documents = [f"document {i} says é. " * (3 + i) for i in range(6)]
  path = directory / "held_out.jsonl"
  path.write_text(
    "".join(json.dumps({"text": text}) + "\n" for text in documents)
  )
  (directory / "train.txt").write_text("something else")
  prepare(
    directory / "prepared",
    train_input=str(directory / "train.txt"),
    valid_input=str(path),
    tokenizer=ByteTokenizer(),
    show_progress=False,
  )
  return directory


def test_files_are_the_stream_of_prepared_data(files):
  text = read_files(str(files / "held_out.jsonl"), ByteTokenizer())
  store = TokenStore(files / "prepared")
  length = store.num_tokens("valid")
  assert text.num_tokens("valid") == length
  np.testing.assert_array_equal(
    text.read("valid", 5, length), store.read("valid", 5, length)
  )
  assert text.num_rows("valid", 7) == store.num_rows("valid", 7)


def test_evaluates_prepared_data_and_files_alike(files):
  run = autoencoder_run()
  settings = PredictionSettings()
  rows = []
  prepared = evaluate_run(
    run, str(files / "prepared"), settings, rows_fn=rows.append
  )
  assert sum(rows) == prepared["num_windows"]
  same = evaluate_run(run, str(files / "held_out.jsonl"), settings)
  for name in ("token_accuracy", "kl", "posterior_std", "kl_stderr"):
    assert prepared[name] == same[name]
  assert prepared["kind"] == "autoencoder"
  assert "windows" in prepared["warnings"][0]


def test_result_says_where_it_comes_from(files, tmp_path):
  run = calm_run()
  data = str(files / "prepared")
  result = evaluate_run(run, data, _SETTINGS, num_rows=4, batch_size=2)
  assert result["num_windows"] == 4
  assert {"brier_1", "brier_lm", "energy_loss_minus_permuted_stderr"} <= {
    *result
  }
  assert result["step"] == run.step
  assert result["seed"] == 0
  assert result["hashes"]["tokenizer"] == run.tokenizer.content_hash
  assert result["hashes"]["data"] == TokenStore(data).content_hash
  assert result["config"]["model"]["chunk_size"] == 4
  assert {"jax", "calm_jax", "python"} <= {*result["versions"]}
  assert "cpu" in result["device"]
  write_result(str(tmp_path / "result.json"), result)
  assert json.loads((tmp_path / "result.json").read_text()) == result


def test_what_is_measured_is_known_before_it_is(files, tmp_path):
  save_run(calm_run(), tmp_path / "run")
  data = str(files / "prepared")
  expected = expected_of(
    RunDirectory(tmp_path / "run"), data, _SETTINGS, num_rows=2
  )
  run = load_run(tmp_path / "run")
  result = evaluate_run(run, data, _SETTINGS, num_rows=2)
  assert {name: result[name] for name in expected} == expected
  assert "training_autoencoder" in expected["hashes"]


@pytest.mark.parametrize(
  ("run_fn", "changes", "message"),
  [
    (token_run, {"noise_scale": 0.5}, "--noise_scale=0.5 does nothing for"),
    (autoencoder_run, {"noise_scale": 0.5}, "--noise_scale=0.5 does nothing"),
    (autoencoder_run, {"permuted": True}, "--permuted=True does nothing for"),
    (autoencoder_run, {"last_chunk": True}, "--last_chunk=True does nothing"),
    (autoencoder_run, {"positions": "grid:8"}, "--positions=grid:8 does no"),
    (token_run, {"last_chunk": True}, "--last_chunk needs chunks of at least"),
    (calm_run, {"permuted": True}, "--permuted scores each row with another"),
  ],
)
def test_refuses_what_is_not_measured_before_any_work(
  files, run_fn, changes, message
):
  def never(num_rows):
    raise AssertionError(f"{num_rows} rows are scored")

  settings = PredictionSettings(num_samples=2, **changes)
  with pytest.raises(ValueError, match=message):
    evaluate_run(
      run_fn(), str(files / "prepared"), settings, num_rows=1, rows_fn=never
    )


def test_refuses(files, tmp_path):
  run = calm_run()
  with pytest.raises(ValueError, match="rows of 160 tokens"):
    evaluate_run(run, str(files / "prepared"), _SETTINGS, row_length=164)
  with pytest.raises(ValueError, match="split 'test'"):
    evaluate_run(run, str(files / "prepared"), _SETTINGS, split="test")
  with pytest.raises(OSError, match="nowhere"):
    evaluate_run(run, str(files / "nowhere.txt"), _SETTINGS)
  with pytest.raises(ValueError, match="no prepared data"):
    open_text(str(tmp_path), ByteTokenizer())
  other = dataclasses.replace(ByteTokenizer().vocabulary)
  tokenizer = ByteTokenizer()
  tokenizer.vocabulary, tokenizer.content_hash = other, "f" * 64
  with pytest.raises(ValueError, match="another tokenizer"):
    open_text(str(files / "prepared"), tokenizer)
  check_output(None)
  check_output(str(tmp_path / "x.json"))
  with pytest.raises(ValueError, match="cannot be written"):
    check_output(str(tmp_path / "missing" / "x.json"))
