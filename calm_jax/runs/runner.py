"""A run and data to scores."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from calm_jax.checkpoint.run_directory import LoadedRun, RunDirectory
from calm_jax.checkpoint.steps import (
  DamagedStepError,
  list_steps,
  read_position,
)
from calm_jax.config import ExperimentConfig
from calm_jax.data.batch import Batch
from calm_jax.data.pipeline import eval_batches
from calm_jax.data.tokenizer import load_tokenizer
from calm_jax.evaluation.held_out_text import open_text
from calm_jax.evaluation.positions import select_positions
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  check_last_chunk,
  check_num_rows,
)
from calm_jax.families import family_of
from calm_jax.runs.provenance import provenance
from calm_jax.sampling.rows import check_processes, num_parts


def window_length(config: ExperimentConfig, row_length: int | None) -> int:
  """The tokens of a window: those asked for, or those of training for None.

  Raises:
    ValueError: if the model was not trained on windows as long.
  """
  longest = config.data.row_length
  if row_length is not None and row_length > longest:
    raise ValueError(
      f"row_length is {row_length}; the model was trained on rows of {longest}"
      " tokens and knows no longer ones."
    )
  return longest if row_length is None else row_length


def evaluate_run(
  run: LoadedRun,
  data: str,
  settings: PredictionSettings,
  *,
  split: str = "valid",
  row_length: int | None = None,
  num_rows: int | None = None,
  batch_size: int = 8,
  rows_fn: Callable[[int], None] | None = None,
) -> dict[str, Any]:
  """Scores a run on held-out text.

  Args:
    run: as loaded; all processes of its mesh call this together.
    data: a prepared directory, or files as `launch.prepare` takes them, which
      are read with the run's tokenizer.
    settings: what is measured.
    split: of a prepared directory.
    row_length: T, tokens of a window; None: that of training.
    num_rows: so many windows, spread evenly over the data; None: all.
    batch_size: windows that a device scores at once; bounds its memory.
    rows_fn: called with the number of rows of each batch as it is taken.

  Returns:
    Scores by name, what was measured, and where it comes from: what a result
    file holds.

  Raises:
    ValueError, OSError: if data and run do not fit, or cannot be read; if the
      model has no use for a setting; if there are more processes than rows.
  """
  config = run.config
  length = window_length(config, row_length)
  _check_settings(config, settings, length)
  store = open_text(data, run.tokenizer)
  batches = eval_batches(
    store,
    split,
    row_length=length,
    chunk_size=config.model.chunk_size,
    batch_size=_rows_at_once(run, batch_size, num_rows),
    num_rows=num_rows,
  )
  if settings.permuted:
    check_num_rows(min(store.num_rows(split, length), num_rows or math.inf))
  scores_fn = family_of(config.model).make_scores_fn(config, settings, run.mesh)
  scores = scores_fn(run.params, run.autoencoder, _counted(batches, rows_fn))
  return {
    "kind": config.model.kind,
    **scores,
    "settings": _settings_used(config, data, settings, split, length, num_rows),
    **provenance(run, data_hash=store.content_hash, seed=settings.seed),
  }


def expected_of(
  run: RunDirectory,
  data: str,
  settings: PredictionSettings,
  *,
  split: str = "valid",
  row_length: int | None = None,
  num_rows: int | None = None,
) -> dict[str, Any]:
  """What `evaluate_run` will say of what is measured, without scoring.

  Args:
    run: that has begun.
    data: as `evaluate_run` takes it, and so are the others.

  Returns:
    `kind`, `settings`, `seed` and `hashes`; of the training's hashes none
    while no step can be read.

  Raises:
    ValueError, OSError: if data and run do not fit, or cannot be read.
  """
  config = run.read_config()
  length = window_length(config, row_length)
  _check_settings(config, settings, length)
  tokenizer = load_tokenizer(run.tokenizer)
  hashes = {
    "tokenizer": tokenizer.content_hash,
    "data": open_text(data, tokenizer).content_hash,
  }
  for step in reversed(list_steps(run.steps)):
    # Older steps may be removed meanwhile, and a damaged one is told of when it
    # is scored; all of them were trained on the same.
    with contextlib.suppress(DamagedStepError, FileNotFoundError):
      trained = read_position(run.steps, step)["hashes"]
      hashes |= {f"training_{name}": it for name, it in trained.items()}
      break
  return {
    "kind": config.model.kind,
    "settings": _settings_used(config, data, settings, split, length, num_rows),
    "hashes": hashes,
    "seed": settings.seed,
  }


def _check_settings(
  config: ExperimentConfig, settings: PredictionSettings, row_length: int
) -> None:
  """Raises ValueError for what the model does not do, before any work."""
  model = config.model
  unused = ["noise_scale"] if not model.needs_autoencoder else []
  if not model.predicts:
    unused += ["permuted", "last_chunk", "positions"]
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    if field.name in unused and value != field.default:
      raise ValueError(
        f"--{field.name}={value} does nothing for a model of kind"
        f" {model.kind!r}; leave it out."
      )
  if settings.last_chunk:
    check_last_chunk(
      select_positions(
        settings.positions, row_length=row_length, chunk_size=model.chunk_size
      ),
      model.chunk_size,
    )


def _settings_used(
  config: ExperimentConfig,
  data: str,
  settings: PredictionSettings,
  split: str,
  length: int,
  num_rows: int | None,
) -> dict[str, Any]:
  used = dataclasses.asdict(settings) if config.model.predicts else {}
  used.pop("seed", None)
  where = {"data": data, "split": split}
  return where | {"row_length": length, "num_rows": num_rows} | used


def _rows_at_once(run: LoadedRun, batch_size: int, num_rows: int | None) -> int:
  """No more than there are, but for what fills the devices."""
  parts = num_parts(run.mesh)
  if num_rows is not None:
    check_processes(num_rows, min(parts, jax.process_count()))
    batch_size = min(batch_size, max(1, -(-num_rows // parts)))
  return batch_size * parts


def _counted(
  batches: Iterable[Batch], rows_fn: Callable[[int], None] | None
) -> Iterator[Batch]:
  for batch in batches:
    yield batch
    if rows_fn is not None:
      rows_fn(int(batch.token_mask.any(axis=(1, 2)).sum()))
