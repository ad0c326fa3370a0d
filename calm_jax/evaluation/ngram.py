"""n-gram models as a yardstick, scored as any model that is only sampled.

The token after a context of c tokens is the one that followed a randomly chosen
occurrence of that context in the training text: a draw from the
maximum-likelihood n-gram model, n = c + 1. A context that never occurred is
shortened from its far end until it did, down to none (the unigram model).
"""

from collections.abc import Iterable

import numpy as np

from calm_jax.data.batch import Batch, chunk_targets, close
from calm_jax.evaluation.positions import NUM_ORDERS, select_positions
from calm_jax.evaluation.windows import COUNT, Columns


class NgramModel:
  """Where every context of up to c tokens occurred in a text."""

  def __init__(self, tokens: np.ndarray, longest: int, num_ids: int):
    """Sorts the contexts; keeps 12 bytes a token for each length.

    Args:
      tokens: [n] int32, the training text.
      longest: c ≥ 0, of the longest context.
      num_ids: ids are below it.

    Raises:
      ValueError: if contexts of that length have no 63-bit number, or the text
        has none with a token behind it.
    """
    limit = int(63 / np.log2(num_ids))
    if not 0 <= longest <= limit:
      raise ValueError(
        f"the n-gram context is {longest} tokens; with {num_ids} ids it is"
        f" between 0 and {limit}."
      )
    if longest >= len(tokens):
      raise ValueError(
        f"the n-gram context is {longest} tokens, and the training text has"
        f" {len(tokens)}; give shorter --contexts, or more text."
      )
    self._tokens, self._num_ids = tokens, num_ids
    self._occurrences = [
      self._sort_contexts(length) for length in range(1, longest + 1)
    ]

  def sample(
    self, context: np.ndarray, length: int, generator: np.random.Generator
  ) -> np.ndarray:
    """Draws continuations.

    Args:
      context: [Q, c] ids; its c, at most `longest`, makes the model.
      length: tokens to draw.
      generator: of the draws.

    Returns:
      [Q, length] int32.
    """
    text, size = context, context.shape[1]
    for step in range(length):
      drawn = self._draw(text[:, step : step + size], generator)
      text = np.column_stack([text, drawn])
    return text[:, size:].astype(np.int32)

  def _draw(
    self, context: np.ndarray, generator: np.random.Generator
  ) -> np.ndarray:
    uniform = generator.random(len(context))
    place = (uniform * len(self._tokens)).astype(np.int64)
    for length in range(1, context.shape[1] + 1):
      codes, places = self._occurrences[length - 1]
      code = _codes(context[:, -length:], self._num_ids)
      first = np.searchsorted(codes, code, "left")
      count = np.searchsorted(codes, code, "right") - first
      seen = count > 0
      chosen = first[seen] + (uniform * count)[seen].astype(np.int64)
      place[seen] = places[chosen]
    return self._tokens[place]

  def _sort_contexts(self, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the contexts in order, and the place after each."""
    windows = np.lib.stride_tricks.sliding_window_view(self._tokens, length)
    codes = _codes(windows[:-1], self._num_ids)
    order = np.argsort(codes, kind="stable")
    return codes[order], (order + length).astype(np.int32)


def ngram_columns(
  model: NgramModel,
  batches: Iterable[Batch],
  *,
  context_length: int,
  num_samples: int,
  seed: int,
  positions: str = "paper",
  closing_id: int | None = None,
) -> Columns:
  """Scores an n-gram model where `prediction_columns` scores a run.

  Args:
    model: of the training text.
    batches: rows [B, L, K].
    context_length: c, at most the model's longest.
    num_samples: S ≥ 2, draws a position.
    seed: of the draws.
    positions: as of `select_positions`.
    closing_id: as the run's, see `chunk_targets`; draws are closed, too.

  Returns:
    Sums over the scored positions of each window: `count`, `accuracy_n` and
    `collision_n`, n = 1 … 4.
  """
  generator = np.random.default_rng(seed)
  parts = []
  for batch in batches:
    rows, length, chunk_size = batch.tokens.shape
    where = select_positions(
      positions, row_length=length * chunk_size, chunk_size=chunk_size
    )
    targets = chunk_targets(batch, closing_id)
    is_scored = where.is_scored(batch.token_mask, targets.mask)
    row, column = np.nonzero(is_scored)
    first = (where.chunk_ids[column] + 1) * chunk_size
    text = batch.tokens.reshape(rows, -1)
    # The first places of a row have less context than c: zeros stand before.
    text = np.pad(text, ((0, 0), (context_length, 0)))
    context = text[row[:, None], first[:, None] + np.arange(context_length)]
    labels = targets.tokens.reshape(rows, -1)[
      row[:, None], first[:, None] + np.arange(NUM_ORDERS)
    ]
    drawn = model.sample(
      np.repeat(context, num_samples, axis=0), NUM_ORDERS, generator
    ).reshape(len(row), num_samples, NUM_ORDERS)
    drawn = close(drawn, closing_id)
    sums = {COUNT: np.sum(is_scored, axis=1)}
    for name, values in _terms(drawn, labels).items():
      sums[name] = np.bincount(row, values, minlength=rows)
    parts.append(sums)
  return {name: np.concatenate([it[name] for it in parts]) for name in parts[0]}


def _terms(drawn: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
  """Accuracy and collision parts of [Q, S, 4] draws and [Q, 4] labels."""
  right = np.cumprod(drawn == labels[:, None], axis=-1).mean(axis=1)
  num_samples = drawn.shape[1]
  terms = {}
  agree = np.ones((len(drawn), num_samples, num_samples), bool)
  for n in range(NUM_ORDERS):
    token = drawn[..., n]
    agree &= token[:, :, None] == token[:, None]
    pairs = agree.sum(axis=(1, 2)) - num_samples
    terms[f"accuracy_{n + 1}"] = right[:, n]
    terms[f"collision_{n + 1}"] = pairs / (num_samples * (num_samples - 1))
  return terms


def _codes(contexts: np.ndarray, num_ids: int) -> np.ndarray:
  """Contexts as digits of one number: [..., c] ids → [...] int64."""
  code = np.zeros(contexts.shape[:-1], np.int64)
  for token in np.moveaxis(contexts, -1, 0):
    code = code * num_ids + token
  return code
