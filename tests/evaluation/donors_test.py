"""Tests calm_jax/evaluation/donors.py against a search through all windows."""

import numpy as np
import pytest

from calm_jax.data.batch import Row, make_batch
from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.evaluation.donors import Donors

_VOCABULARY = ByteTokenizer().vocabulary
_LENGTH = 12


def _stream(lengths):
  """Documents of these lengths as rows, and for each row its documents."""
  stream, documents = [], []
  for number, length in enumerate(lengths):
    stream += [_VOCABULARY.begin_id, *[97] * length, _VOCABULARY.end_id]
    documents += [number] * (length + 2)
  starts = range(0, len(stream), _LENGTH)
  rows = [np.array(stream[i : i + _LENGTH], np.int32) for i in starts]
  return rows, [{*documents[i : i + _LENGTH]} for i in starts]


def _choose(rows, batch_size):
  """For each row the row that lends to it, and whether it may be the same."""
  donors, found = Donors(), []
  carried = [None, None]
  for start in range(0, len(rows), batch_size):
    part = range(start, min(start + batch_size, len(rows)))
    batch = make_batch(
      [Row(rows[i], 0, i) for i in part],
      _VOCABULARY,
      row_length=_LENGTH,
      chunk_size=4,
      batch_size=batch_size,
    )
    loan = donors.choose(batch.token_mask)
    places = [*carried, *part]
    for i in range(len(part)):
      found.append((places[loan.lenders[i]], bool(loan.is_same[i])))
    carried = [places[i] for i in loan.kept]
  return found


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_the_nearest_window_of_other_documents_lends(seed, batch_size):
  generator = np.random.default_rng(seed)
  rows, documents = _stream(generator.integers(1, 60, 20))
  for i, (lender, is_same) in enumerate(_choose(rows, batch_size)):
    apart = [j for j in range(i) if not documents[j] & documents[i]]
    if not is_same:
      assert lender == apart[-1]
    else:
      assert lender == (i - 1 if i else None)
      assert not apart


def test_one_document_has_no_lender():
  rows, _ = _stream([100])
  assert _choose(rows, 4)[1:] == [(i, True) for i in range(len(rows) - 1)]
