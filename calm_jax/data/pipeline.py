"""Batches of rows from prepared data, the same for any number of hosts."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from calm_jax.config import DataConfig
from calm_jax.data.batch import Batch, Row, make_batch, random_fill
from calm_jax.data.mixture import MixtureMap
from calm_jax.data.store import TokenStore


def open_sources(config: DataConfig) -> dict[str, TokenStore]:
  """Opens the prepared directories of a run.

  Args:
    config: names one path or several sources.

  Returns:
    The stores by name, in the order of the config.

  Raises:
    OSError, ValueError: if one cannot be read, two have the same name, or
      their tokenizers differ.
  """
  stores: dict[str, TokenStore] = {}
  for source in config.all_sources():
    if not source.path:
      raise ValueError(
        "no data was given; set --config.data.path to a directory written by"
        " `python -m launch.prepare`."
      )
    store = TokenStore(source.path)
    name = source.name or store.path.name
    if name in stores:
      raise ValueError(
        f"two sources are named {name!r}: {stores[name].path} and"
        f" {store.path}; give each its own name."
      )
    stores[name] = store
  first_name, first = next(iter(stores.items()))
  for name, store in stores.items():
    if store.tokenizer.content_hash != first.tokenizer.content_hash:
      raise ValueError(
        f"source {name!r} has another tokenizer than {first_name!r} (content"
        f" hash {store.tokenizer.content_hash[:12]} and"
        f" {first.tokenizer.content_hash[:12]}); prepare both with the same"
        f" one: --tokenizer={first.path / 'tokenizer'}."
      )
  return stores


def train_batches(
  config: DataConfig,
  *,
  chunk_size: int,
  start_step: int = 0,
  host_index: int = 0,
  num_hosts: int = 1,
  stores: Sequence[TokenStore] | None = None,
) -> Iterator[Batch]:
  """This host's rows of the global batches from `start_step` on.

  Step s takes examples s·B … (s+1)·B − 1 of one endless list of rows, or of a
  finite one if every source has a number of epochs: each epoch is a seeded
  permutation of the rows. What an example is depends on its number only, so
  neither a restart nor the number of hosts changes a batch.

  Args:
    config: sources, row length T, global batch size B, seed.
    chunk_size: K, divides T.
    start_step: the step of the first batch.
    host_index: of `num_hosts`; host h takes the h-th slice of the global batch.
    num_hosts: divides B.
    stores: those of `open_sources(config)`, if they are open already.

  Returns:
    Batches of B / num_hosts rows. If the list of rows is finite, the missing
    rows of its last batch are masked.

  Raises:
    OSError, ValueError: if a source cannot be read or numbers do not fit.
  """
  _check_shape(config.row_length, chunk_size)
  _check_hosts(config.batch_size, num_hosts)
  if stores is None:
    stores = tuple(open_sources(config).values())
  length, size = config.row_length, config.batch_size // num_hosts
  use_fill = config.use_random_fill

  def read_batch(step: int, rows: list[tuple[int, int]]) -> Batch:
    start = host_index * size
    return make_batch(
      [
        _read_row(
          stores[source],
          "train",
          number,
          length,
          row_id=i,
          num_fill=use_fill
          and random_fill(
            config.seed, step * config.batch_size + i, chunk_size
          ),
        )
        for i, (source, number) in enumerate(
          rows[start : start + size], start=start
        )
      ],
      stores[0].vocabulary,
      row_length=length,
      chunk_size=chunk_size,
      batch_size=size,
    )

  steps = (
    _row_order(config, stores)
    .batch(config.batch_size, batch_fn=list)
    .map_with_index(read_batch)
    .slice(slice(start_step, None))
  )
  return iter(
    steps.to_iter_dataset(
      grain.ReadOptions(
        num_threads=min(2, config.num_prefetch_batches),
        prefetch_buffer_size=config.num_prefetch_batches,
      )
    )
  )


def eval_batches(
  store: TokenStore,
  split: str,
  *,
  row_length: int,
  chunk_size: int,
  batch_size: int,
  num_rows: int | None = None,
  host_index: int = 0,
  num_hosts: int = 1,
) -> Iterator[Batch]:
  """Rows of a split in order, without fill.

  Args:
    store: the prepared data.
    split: "train" or "valid".
    row_length: T, tokens.
    chunk_size: K, divides T.
    batch_size: B, of the global batch.
    num_rows: that many rows, spread evenly over the split; None: all.
    host_index: of `num_hosts`; host h takes the h-th slice of each batch.
    num_hosts: divides B.

  Returns:
    Batches of B / num_hosts rows; the missing rows of the last one are
    masked.

  Raises:
    ValueError: if the split is empty or numbers do not fit.
  """
  _check_positive(
    row_length=row_length, batch_size=batch_size, num_rows=num_rows
  )
  _check_shape(row_length, chunk_size)
  _check_hosts(batch_size, num_hosts)
  total = store.num_rows(split, row_length)
  if not total:
    raise ValueError(
      f"the split {split!r} of {store.path} is empty; prepare the data with"
      " --valid_input, or with more documents."
    )
  count = total if num_rows is None else min(num_rows, total)
  numbers = (np.arange(count) * total // count).tolist()
  size = batch_size // num_hosts
  return (
    make_batch(
      [
        _read_row(store, split, number, row_length, row_id=number)
        for number in numbers[start : start + size]
      ],
      store.vocabulary,
      row_length=row_length,
      chunk_size=chunk_size,
      batch_size=size,
    )
    for start in range(host_index * size, count + host_index * size, batch_size)
  )


def _row_order(
  config: DataConfig, stores: Sequence[TokenStore]
) -> grain.MapDataset:
  """The list of (source, row number) that training goes through."""
  orders = []
  sources = config.all_sources()
  for i, (source, store) in enumerate(zip(sources, stores, strict=True)):
    count = store.num_rows("train", config.row_length)
    if not count:
      raise ValueError(f"{store.path} has no tokens to train on.")
    orders.append(
      grain.MapDataset.range(count)
      .shuffle(seed=zlib.crc32(f"{config.seed}/{i}".encode()))
      .repeat(source.num_epochs)
      .map(lambda number, i=i: (i, int(number)))
    )
  mixture = MixtureMap(
    [min(len(order), sys.maxsize) for order in orders],
    [source.weight for source in sources],
  )
  return grain.MapDataset.select_from_datasets(orders, mixture)


def _read_row(
  store: TokenStore,
  split: str,
  number: int,
  row_length: int,
  *,
  row_id: int,
  num_fill: int = 0,
) -> Row:
  start = number * row_length
  stop = min(start + row_length, store.num_tokens(split))
  tokens, is_prompt = store.read_marked(split, start, stop)
  if num_fill:
    fill = np.full(num_fill, store.vocabulary.end_id, np.int32)
    tokens = np.concatenate([fill, tokens])[:row_length]
    is_prompt = np.pad(is_prompt, (num_fill, 0))[:row_length]
  return Row(tokens, num_fill, row_id, is_prompt)


def _check_positive(**numbers: int | None) -> None:
  for name, number in numbers.items():
    if number is not None and number < 1:
      raise ValueError(f"{name} is {number}; it is positive.")


def _check_shape(row_length: int, chunk_size: int) -> None:
  _check_positive(chunk_size=chunk_size)
  if row_length % chunk_size:
    low = row_length - row_length % chunk_size
    raise ValueError(
      f"row length {row_length} is not a multiple of chunk_size {chunk_size};"
      f" the nearest are {low} and {low + chunk_size}."
    )


def _check_hosts(batch_size: int, num_hosts: int) -> None:
  if batch_size % num_hosts:
    raise ValueError(
      f"batch_size {batch_size} is not a multiple of the number of hosts,"
      f" {num_hosts}."
    )
