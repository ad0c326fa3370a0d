"""Small prepared directories for tests."""

import json

import numpy as np

from calm_jax.data import store, tokenizer

BYTES = tokenizer.ByteTokenizer()


def write_json_lines(path, documents):
  path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
  return str(path)


def prepare(directory, train, valid, **settings):
  """Prepares lists of documents with bytes as tokens; returns the store."""
  directory.mkdir(parents=True, exist_ok=True)
  settings = {"tokenizer": BYTES, "show_progress": False} | settings
  store.prepare(
    directory / "store",
    train_input=write_json_lines(directory / "train.jsonl", train),
    valid_input=write_json_lines(directory / "valid.jsonl", valid),
    **settings,
  )
  return store.TokenStore(directory / "store")


def stream(documents, tokenizer=BYTES):
  """begin + document + end for each, the definition of the stream."""
  vocabulary = tokenizer.vocabulary
  pieces = []
  for text in documents:
    pieces += [[vocabulary.begin_id], tokenizer.encode(text)]
    pieces += [[vocabulary.end_id]]
  return np.concatenate(pieces).astype(np.int32)
