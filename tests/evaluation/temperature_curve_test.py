"""Tests evaluation/temperature_curve.py on a model that is known."""

import collections

import numpy as np
import pytest

from calm_jax.data.batch import Batch
from calm_jax.evaluation.temperature_curve import batch_method_columns
from calm_jax.randomness import position_keys, stream_key
from calm_jax.sampling.batch import log_weights
from tests.evaluation.tabular import VOCABULARY, Tabular

_TEXT = np.random.default_rng(3).integers(0, 3, 12).astype(np.int32)


class _Model(Tabular):
  def hidden(self, tokens, segment_ids):
    return self.read(tokens, segment_ids)[0]


_MODEL = _Model(2)


def _batch(num_rows):
  tokens = np.broadcast_to(_TEXT.reshape(1, 6, 2), (num_rows, 6, 2))
  return Batch(
    tokens,
    np.ones(tokens.shape, bool),
    np.zeros(tokens.shape[:2], np.int32),
    np.arange(num_rows, dtype=np.uint32),
  )


def _columns(num_rows, temperatures, candidate_counts):
  return batch_method_columns(
    lambda params: _MODEL,
    None,
    [_batch(num_rows)],
    temperatures=temperatures,
    candidate_counts=candidate_counts,
    positions="paper",
    seed=0,
  )


def test_counts_by_hand():
  found = _columns(2, [0.4, 0.2], [5, 9])
  hidden, _ = _MODEL.read(_batch(2).tokens, None)
  key = stream_key(0, "candidates")
  ids = np.arange(4, dtype=np.uint32)
  keys = position_keys(key, ids[:2], ids)
  drawn = np.asarray(
    _MODEL.draw(hidden[:, :4], keys, np.arange(18, dtype=np.uint32))
  )
  for (temperature, count), columns in found.items():
    weights = np.exp(log_weights(temperature, count), dtype=float)
    expected = np.zeros((2, 2, 2))  # row, accuracy or collision, n
    for row, place in np.ndindex(2, 4):
      first, second = (
        _chances(drawn[row, place, start : start + count], weights)
        for start in (0, 9)
      )
      truth = tuple(_TEXT[2 * place + 2 : 2 * place + 4].tolist())
      for n in (1, 2):
        heads = [_heads(chances, n) for chances in (first, second)]
        expected[row, 0, n - 1] += np.mean([x[truth[:n]] for x in heads])
        expected[row, 1, n - 1] += sum(
          chance * heads[1][head] for head, chance in heads[0].items()
        )
    assert columns["count"].tolist() == [4, 4]
    for n in (1, 2):
      for i, name in enumerate(("accuracy", "collision")):
        np.testing.assert_allclose(
          columns[f"{name}_{n}"], expected[:, i, n - 1], rtol=1e-5, atol=1e-7
        )


def _chances(chunks, weights):
  """The batch method's choice, given its candidates."""
  counts = collections.Counter(map(tuple, chunks.tolist()))
  result = {chunk: weights[count] for chunk, count in counts.items()}
  if not sum(result.values()):
    most = max(counts.values())
    result = {chunk: float(count == most) for chunk, count in counts.items()}
  total = sum(result.values())
  return {chunk: weight / total for chunk, weight in result.items()}


def _heads(chances, n):
  result = collections.defaultdict(float)
  for chunk, chance in chances.items():
    result[chunk[:n]] += chance
  return result


def test_many_candidates_give_the_powered_distribution():
  found = _columns(60, [1.0, 0.5], [300])
  hidden, _ = _MODEL.read(_batch(1).tokens, None)
  p = np.exp(np.asarray(hidden[0, :4], np.float64))  # [4, 9]
  labels = _TEXT[2:10].reshape(4, 2) @ [VOCABULARY, 1]
  for temperature in (1.0, 0.5):
    powered = p ** (1 / temperature)
    powered /= powered.sum(axis=-1, keepdims=True)
    columns = found[temperature, 300]
    accuracy = columns["accuracy_2"] / 4
    error = accuracy.std() / np.sqrt(60)
    truth = powered[np.arange(4), labels].mean()
    assert abs(accuracy.mean() - truth) < 4 * error + 2e-3
    collision = columns["collision_2"].mean() / 4
    assert collision == pytest.approx(
      (powered**2).sum(axis=-1).mean(), abs=0.01
    )
