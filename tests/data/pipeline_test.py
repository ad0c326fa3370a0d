"""Tests calm_jax/data/pipeline.py: the same batches however they are read."""

import itertools

import jax
import numpy as np
import pytest

from calm_jax.config import DataConfig, SourceConfig
from calm_jax.data import pipeline, store
from tests.data import prepared, texts

_BEGIN, _END = 256, 257
_LENGTH = 64


@pytest.fixture(scope="module")
def first(tmp_path_factory):
  documents = [*texts.random_texts(seed=11, count=120), texts.ENGLISH]
  directory = tmp_path_factory.mktemp("first")
  return prepared.prepare(directory, documents, [texts.ENGLISH * 3])


@pytest.fixture(scope="module")
def second(tmp_path_factory):
  directory = tmp_path_factory.mktemp("second")
  return prepared.prepare(directory, [texts.words(seed=12, count=300)], ["é"])


def _config(*stores, **settings):
  defaults = {"row_length": _LENGTH, "batch_size": 4, "seed": 5}
  if len(stores) == 1:
    defaults["path"] = str(stores[0].path)
  else:
    defaults["sources"] = tuple(
      SourceConfig(path=str(opened.path), name=str(i))
      for i, opened in enumerate(stores)
    )
  return DataConfig(**defaults | settings)


def _take(config, count, **settings):
  settings = {"chunk_size": 4} | settings
  batches = pipeline.train_batches(config, **settings)
  return list(itertools.islice(batches, count))


def _assert_equal(found, expected):
  assert len(found) == len(expected) > 0
  for a, b in zip(found, expected, strict=True):
    jax.tree.map(_assert_same_array, a, b)


def _assert_same_array(x, y):
  np.testing.assert_array_equal(x, y)
  assert x.dtype == y.dtype


def _join(*host_batches):
  """Global batches from those of each host."""
  return [
    jax.tree.map(lambda *parts: np.concatenate(parts), *batches)
    for batches in zip(*host_batches, strict=True)
  ]


# --- training -----------------------------------------------------------------


@pytest.mark.parametrize("num_hosts", [2, 4])
@pytest.mark.parametrize("start", [0, 7])
@pytest.mark.parametrize("is_mixture", [False, True])
def test_hosts_and_restarts_do_not_change_the_global_batch(
  first, second, num_hosts, start, is_mixture
):
  config = _config(*([first, second] if is_mixture else [first]))
  expected = _take(config, 12)[start:]
  hosts = [
    _take(
      config,
      12 - start,
      start_step=start,
      host_index=host,
      num_hosts=num_hosts,
    )
    for host in range(num_hosts)
  ]
  assert hosts[0][0].tokens.shape == (4 // num_hosts, 16, 4)
  _assert_equal(_join(*hosts), expected)


def test_one_host_restarts_in_a_later_epoch(first):
  num_rows = first.num_rows("train", _LENGTH)
  start = 2 * num_rows // 4 + 3
  config = _config(first)
  _assert_equal(
    _take(config, 3, start_step=start), _take(config, start + 3)[start:]
  )


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(first):
  num_rows = first.num_rows("train", _LENGTH)
  config = _config(first, batch_size=1, use_random_fill=False)
  rows = [batch.tokens.reshape(-1) for batch in _take(config, 2 * num_rows)]
  ids = first.read("train", 0, first.num_tokens("train"))
  padding = np.full(num_rows * _LENGTH - len(ids), _END)
  expected = np.concatenate([ids, padding]).reshape(num_rows, _LENGTH)
  orders = []
  for epoch in (rows[:num_rows], rows[num_rows:]):
    assert sorted(map(tuple, epoch)) == sorted(map(tuple, expected.tolist()))
    orders.append(epoch)
  assert not np.array_equal(orders[0], orders[1])
  assert not np.array_equal(orders[0], expected)


def test_the_seed_changes_the_order(first):
  one, other = (
    _take(_config(first, seed=seed), 1)[0].tokens for seed in (0, 1)
  )
  assert not np.array_equal(one, other)


def test_masked_tokens_are_the_padding_fill_and_begin_ids(first):
  num_rows = first.num_rows("train", _LENGTH)
  config = _config(first, batch_size=1, use_random_fill=False)
  count = sum(batch.token_mask.sum() for batch in _take(config, num_rows))
  assert count == first.num_tokens("train") - first.num_documents("train")


def test_fill_stands_in_front_and_pushes_out_the_end(first):
  plain = _take(_config(first, use_random_fill=False), 30)
  filled = _take(_config(first), 30)
  sizes = set()
  for a, b in zip(plain, filled, strict=True):
    for x, y, mask in zip(
      a.tokens.reshape(4, -1),
      b.tokens.reshape(4, -1),
      b.token_mask.reshape(4, -1),
      strict=True,
    ):
      sizes_here = [
        r
        for r in range(4)
        if np.array_equal(y, np.r_[[_END] * r, x[: _LENGTH - r]])
        and not mask[:r].any()
      ]
      assert sizes_here
      sizes.add(sizes_here[-1])
  assert sizes == {0, 1, 2, 3}


def test_row_ids_are_places_in_the_global_batch(first):
  batch = _take(_config(first), 1, host_index=1, num_hosts=2)[0]
  assert batch.row_ids.tolist() == [2, 3]


@pytest.mark.parametrize("chunk_size", [1, 2, 8])
def test_one_store_serves_every_chunk_size(first, chunk_size):
  config = _config(first, use_random_fill=False)
  expected = _take(config, 2)
  found = _take(config, 2, chunk_size=chunk_size)
  for a, b in zip(found, expected, strict=True):
    assert a.tokens.shape == (4, _LENGTH // chunk_size, chunk_size)
    np.testing.assert_array_equal(
      a.tokens.reshape(4, -1), b.tokens.reshape(4, -1)
    )


def test_golden_rows(first):
  """The rows of a run must never change, or a restart changes them."""
  batch = _take(_config(first), 1, start_step=100)[0]
  assert batch.tokens[:, 0].tolist() == [
    [257, 257, 257, 140],
    [257, 172, 187, 225],
    [180, 178, 32, 32],
    [257, 240, 155, 179],
  ]


# --- mixtures -----------------------------------------------------------------


def _origin(batch, second):
  """True for rows of `second`, whose text is English only."""
  text = set(second.read("train", 0, second.num_tokens("train")).tolist())
  rows = batch.tokens.reshape(len(batch.tokens), -1)
  return [set(row.tolist()) <= text for row in rows]


def test_weights_are_shares_of_the_rows(first, second):
  sources = (
    SourceConfig(path=str(first.path), name="a", weight=1),
    SourceConfig(path=str(second.path), name="b", weight=3),
  )
  config = DataConfig(sources=sources, row_length=_LENGTH, batch_size=4)
  origins = [_origin(batch, second) for batch in _take(config, 50)]
  # Rows of `first` that hold English by chance would be counted too.
  assert 148 <= sum(map(sum, origins)) <= 156


def test_a_source_ends_after_its_epochs(first, second):
  num_second = second.num_rows("train", _LENGTH)
  sources = (
    SourceConfig(path=str(first.path), name="a"),
    SourceConfig(path=str(second.path), name="b", num_epochs=2),
  )
  config = DataConfig(
    sources=sources, row_length=_LENGTH, batch_size=1, use_random_fill=False
  )
  rows = [b.tokens.tobytes() for b in _take(config, 6 * num_second)]
  ids = second.read("train", 0, num_second * _LENGTH - _LENGTH)
  for row in ids.reshape(-1, _LENGTH):
    assert rows.count(row.tobytes()) == 2


def test_finite_training_ends_with_a_masked_remainder(first, second):
  sources = tuple(
    SourceConfig(path=str(opened.path), name=str(i), num_epochs=1)
    for i, opened in enumerate((first, second))
  )
  config = DataConfig(
    sources=sources, row_length=_LENGTH, batch_size=8, use_random_fill=False
  )
  total = sum(s.num_rows("train", _LENGTH) for s in (first, second))
  hosts = [
    list(
      pipeline.train_batches(config, chunk_size=4, host_index=host, num_hosts=2)
    )
    for host in range(2)
  ]
  batches = _join(*hosts)
  assert len(batches) == -(-total // 8)
  assert total % 8, "the test wants a remainder"
  rows = np.concatenate([b.token_mask.any(axis=(1, 2)) for b in batches])
  assert rows[:total].all() and not rows[total:].any()
  num_text = sum(
    s.num_tokens("train") - s.num_documents("train") for s in (first, second)
  )
  assert sum(b.token_mask.sum() for b in batches) == num_text


def test_sources_have_names_of_their_own(first, second):
  assert list(pipeline.open_sources(_config(first))) == ["store"]
  assert list(pipeline.open_sources(_config(first, second))) == ["0", "1"]
  twice = (SourceConfig(path=str(first.path)),) * 2
  with pytest.raises(ValueError, match="two sources are named 'store'"):
    pipeline.open_sources(DataConfig(sources=twice))


def test_sources_share_a_tokenizer(first, tmp_path):
  other = prepared.prepare(
    tmp_path, [texts.ENGLISH], ["v"], tokenizer=None, vocab_size=310
  )
  with pytest.raises(ValueError, match="'1' has another tokenizer than '0'"):
    pipeline.train_batches(_config(first, other), chunk_size=4)


@pytest.mark.parametrize(
  ("settings", "arguments", "message"),
  [
    ({"row_length": 62}, {}, "62 is not a multiple of chunk_size 4; .* 60 and"),
    ({}, {"num_hosts": 3}, "batch_size 4 is not a multiple of the number of"),
    ({"path": ""}, {}, "no data was given"),
  ],
)
def test_impossible_requests(first, settings, arguments, message):
  with pytest.raises(ValueError, match=message):
    _take(_config(first, **settings), 1, **arguments)


def test_damage_found_late_is_a_users_error(tmp_path):
  opened = prepared.prepare(tmp_path, [texts.words(1, 5000)], ["v"])
  config = _config(opened)
  file = next((opened.path / "tokens").glob("*train*"))
  file.write_bytes(file.read_bytes()[:20_000])
  with pytest.raises(ValueError, match="damaged or incomplete"):
    _take(config, 50)


# --- evaluation ---------------------------------------------------------------


def _evaluate(opened, split="train", **settings):
  settings = {
    "row_length": _LENGTH,
    "chunk_size": 4,
    "batch_size": 8,
  } | settings
  return list(pipeline.eval_batches(opened, split, **settings))


def test_evaluation_reads_the_stream_in_order(first):
  batches = _evaluate(first)
  tokens = np.concatenate([batch.tokens for batch in batches]).reshape(-1)
  size = first.num_tokens("train")
  np.testing.assert_array_equal(tokens[:size], first.read("train", 0, size))
  assert (tokens[size:] == _END).all() and len(tokens) % (8 * _LENGTH) == 0
  mask = np.concatenate([batch.token_mask for batch in batches]).reshape(-1)
  assert mask[:size].sum() == size - first.num_documents("train")
  np.testing.assert_array_equal(~mask[:size], tokens[:size] == _BEGIN)
  assert not mask[size:].any()
  num_rows = first.num_rows("train", _LENGTH)
  ids = np.concatenate([batch.row_ids for batch in batches])[:num_rows]
  np.testing.assert_array_equal(ids, np.arange(num_rows))


def test_documents_are_numbered_within_a_row(first):
  for batch in _evaluate(first)[:3]:
    begins = np.cumsum(batch.tokens.reshape(8, -1) == _BEGIN, axis=1)
    np.testing.assert_array_equal(batch.segment_ids, begins[:, 3::4])


def test_a_few_rows_are_spread_over_the_split(first):
  total = first.num_rows("train", _LENGTH)
  batches = _evaluate(first, num_rows=5, batch_size=2)
  assert len(batches) == 3
  ids = np.concatenate([batch.row_ids for batch in batches])[:5].tolist()
  assert ids == [i * total // 5 for i in range(5)]
  rows = np.concatenate([batch.tokens for batch in batches])[:5]
  for number, row in zip(ids, rows, strict=True):
    start = number * _LENGTH
    np.testing.assert_array_equal(
      row.reshape(-1), first.read("train", start, start + _LENGTH)
    )
  assert not batches[-1].token_mask[1:].any()
  assert len(_evaluate(first, num_rows=10**9)) == -(-total // 8)


def test_hosts_share_evaluation(first):
  hosts = [
    _evaluate(first, "valid", host_index=host, num_hosts=4) for host in range(4)
  ]
  _assert_equal(_join(*hosts), _evaluate(first, "valid"))


def test_an_empty_split_is_named(first, monkeypatch):
  monkeypatch.setattr(store.TokenStore, "num_tokens", lambda self, split: 0)
  with pytest.raises(ValueError, match=r"the split 'valid' of .* is empty"):
    pipeline.eval_batches(
      first, "valid", row_length=_LENGTH, chunk_size=4, batch_size=8
    )
