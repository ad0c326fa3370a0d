"""Prompts with completions: all is read, completions and ends are learnt."""

import itertools
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from calm_jax.config import DataConfig, VocabularyConfig
from calm_jax.data import (
  pipeline,
  sources,
  store,
  store_layout,
  store_writer,
)
from calm_jax.data.batch import chunk_targets
from calm_jax.data.tfds_examples import Examples
from calm_jax.evaluation.held_out_text import read_files
from tests.data import prepared

_BEGIN, _END = 256, 257
_PAIRS = [("2+2=", "4"), ("", "é"), ("the capital of France: ", "Paris")]


def _write(path, records):
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return str(path)


def _pairs(pairs):
  return [{"prompt": a, "completion": b} for a, b in pairs]


def _prepare(tmp_path, train=_PAIRS, **settings):
  settings = {
    "train_input": _write(tmp_path / "train.jsonl", _pairs(train)),
    "valid_input": _write(tmp_path / "valid.jsonl", _pairs(_PAIRS[:1])),
    "tokenizer": prepared.BYTES,
    "show_progress": False,
    **settings,
  }
  store.prepare(tmp_path / "out", **settings)
  return store.TokenStore(tmp_path / "out")


def _expected(pairs):
  """The stream and what of it is learnt, by the definition."""
  ids, learnt = [], []
  for prompt, completion in pairs:
    prompt, completion = prompt.encode(), completion.encode()
    ids += [_BEGIN, *prompt, *completion, _END]
    learnt += [False] * (1 + len(prompt)) + [True] * (len(completion) + 1)
  return np.array(ids), np.array(learnt)


def test_the_stream_and_its_marks(tmp_path):
  opened = _prepare(tmp_path)
  ids, learnt = _expected(_PAIRS)
  assert opened.num_tokens("train") == len(ids)
  assert opened.num_documents("train") == 3
  np.testing.assert_array_equal(opened.read("train", 0, len(ids)), ids)
  tokens, is_prompt = opened.read_marked("train", 0, len(ids))
  np.testing.assert_array_equal(tokens, ids)
  np.testing.assert_array_equal(~is_prompt & (ids != _BEGIN), learnt)
  text = read_files(str(tmp_path / "train.jsonl"), prepared.BYTES)
  for found, expected in zip(
    text.read_marked("valid", 2, 20),
    opened.read_marked("train", 2, 20),
    strict=True,
  ):
    np.testing.assert_array_equal(found, expected)


def test_only_completions_and_ends_count(tmp_path):
  opened = _prepare(tmp_path)
  ids, learnt = _expected(_PAIRS)
  (batch,) = pipeline.eval_batches(
    opened, "train", row_length=48, chunk_size=4, batch_size=1
  )
  num = len(ids)
  np.testing.assert_array_equal(batch.tokens.reshape(-1)[:num], ids)
  np.testing.assert_array_equal(batch.token_mask.reshape(-1)[:num], learnt)
  assert not batch.token_mask.reshape(-1)[num:].any()
  # "Paris" and its end: a chunk that begins inside of it counts to the end id.
  config = DataConfig(path=str(opened.path), row_length=48, batch_size=1)
  ends = set()
  for batch in itertools.islice(
    pipeline.train_batches(config, chunk_size=4), 12
  ):
    targets = chunk_targets(batch, _END)
    counted = targets.tokens[targets.mask.all(axis=-1)].tolist()
    for chunk in counted:
      text = bytes(id for id in chunk if id < 256)
      assert text in b"4" or text in "é".encode() or text in b"Paris", chunk
      ends.add(text)
  assert b"s" in ends or b"is" in ends or b"ris" in ends


def test_shared_prompts_do_not_decide_what_is_held_out(tmp_path):
  pairs = [("the same", str(i)) for i in range(400)]
  opened = _prepare(tmp_path, pairs, valid_input=None)
  assert 5 < opened.num_documents("valid") < 60


@pytest.mark.parametrize(
  ("record", "words"),
  [
    ({"prompt": "a"}, "'completion' is nothing"),
    ({"completion": "a"}, "'prompt' is nothing"),
    ({"prompt": 3, "completion": "a"}, "'prompt' is int"),
    ({"prompt": "a", "completion": ""}, "completion is empty"),
    ({"prompt": "a", "completion": "b", "text": "c"}, "'text' stands beside"),
    ({"prompt": "\ud800", "completion": "b"}, "lone surrogate"),
  ],
)
def test_bad_lines_are_named(tmp_path, record, words):
  path = _write(tmp_path / "a.jsonl", [{"prompt": "", "completion": "b"}] * 2)
  with open(path, "a") as file:
    file.write(json.dumps(record) + "\n")
  with pytest.raises(ValueError, match=words) as error:
    list(sources.read_parts([path]))
  assert "a.jsonl, line 3" in str(error.value)


def test_prompts_behind_texts_are_refused(tmp_path):
  path = _write(tmp_path / "a.jsonl", [{"text": "a"}, *_pairs(_PAIRS)])
  with pytest.raises(ValueError, match="apart"):
    _prepare(tmp_path, train_input=path)
  assert not (tmp_path / "out").exists()


def test_large_vocabularies_are_marked(tmp_path):
  """Ids up to 2¹⁵ fit beside their marks in 16 bits; others take 32."""
  for size in (1 << 15, (1 << 15) + 1, 1 << 17):
    vocabulary = VocabularyConfig(size=size, begin_id=0, end_id=1)
    directory = tmp_path / str(size)
    writer = store_writer.StreamWriter(
      directory, vocabulary, ("train",), has_prompts=True
    )
    ids = np.array([2, size - 1], np.int32)
    for is_prompt in (True, False):
      writer.add(
        "train",
        ids,
        is_first=is_prompt,
        is_last=not is_prompt,
        is_prompt=is_prompt,
      )
    writer.close()
    block = Examples(tfds.builder_from_directory(directory), "train")
    found = block.read(0, "tokens")[:6].astype(np.int32)
    np.testing.assert_array_equal(found, [0, *store_layout.mark(ids), *ids, 1])
