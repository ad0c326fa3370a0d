"""The suite of the data pipeline: tokens a second that reach the host."""

import functools
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.timing import Roofline, Row, Version, compare_calls
from calm_jax.config import DataConfig
from calm_jax.data.pipeline import open_sources, train_batches
from calm_jax.data.preparation import prepare
from calm_jax.data.tokenizer_bytes import ByteTokenizer


class _Size(NamedTuple):
  num_documents: int
  document_size: int  # bytes
  row_length: int  # T
  batch_size: int
  num_batches: int  # of one measurement


_SIZES = {
  "tiny": _Size(20, 1000, 64, 2, 4),
  "cpu": _Size(2000, 4000, 1024, 8, 64),
  "accelerator": _Size(8000, 4000, 8192, 64, 64),
}
_CHUNK_SIZE = 4


def run(
  size: str, seed: int, roofline: Roofline, seconds: float
) -> Iterator[Row]:
  """Yields rows for preparing text and for reading batches of it."""
  del roofline
  letters = _SIZES[size]
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory)
    text = _write_text(path / "text.jsonl", letters, seed)
    numbers = iter(range(10**9))

    def prepare_once() -> str:
      output = str(path / f"prepared{next(numbers)}")
      # Held out from the same file: nothing is measured of it.
      prepare(
        output,
        train_input=str(path / "text.jsonl"),
        valid_input=str(path / "held_out.jsonl"),
        tokenizer=ByteTokenizer(),
        show_progress=False,
      )
      return output

    yield from compare_calls(
      "prepare",
      {"bytes as tokens": Version(prepare_once, num_tokens=text)},
      seconds,
    )
    config = DataConfig(
      path=prepare_once(),
      row_length=letters.row_length,
      batch_size=letters.batch_size,
      seed=seed,
    )
    stores = tuple(open_sources(config).values())
    num_tokens = letters.num_batches * letters.batch_size * letters.row_length
    versions = {}
    for num_ahead in (0, config.num_prefetch_batches):
      config.num_prefetch_batches = num_ahead
      versions[f"{num_ahead} batches ahead"] = Version(
        functools.partial(
          _read,
          DataConfig(**vars(config)),
          stores,
          letters.num_batches,
        ),
        num_tokens=num_tokens,
      )
    yield from compare_calls("training batches", versions, seconds)


def _read(config: DataConfig, stores: tuple, num_batches: int) -> None:
  batches = train_batches(config, chunk_size=_CHUNK_SIZE, stores=stores)
  for _ in range(num_batches):
    next(batches)


def _write_text(path: pathlib.Path, size: _Size, seed: int) -> int:
  """Writes documents of random letters; returns how many of them."""
  generator = np.random.default_rng(seed)
  shape = (size.num_documents, size.document_size)
  letters = generator.integers(ord("a"), ord("z") + 1, shape, np.uint8)
  lines = [json.dumps({"text": bytes(row).decode()}) + "\n" for row in letters]
  path.write_text("".join(lines))
  (path.parent / "held_out.jsonl").write_text(lines[0])
  return letters.size
