"""Where in a row a model is scored."""

from typing import NamedTuple

import numpy as np

NUM_ORDERS = 4  # Brier-1 … Brier-4


class Positions(NamedTuple):
  """The places of a row whose next four tokens are scored."""

  chunk_ids: np.ndarray  # [P] int32, index of the last chunk of the context
  num_chunks: int  # chunks that four tokens span, ⌈4/K⌉
  num_tokens: int  # tokens that must be real text for a place to count
  counts_closed: bool = False  # whether the last chunk may be a closed one

  def is_scored(
    self, token_mask: np.ndarray, target_mask: np.ndarray | None = None
  ) -> np.ndarray:
    """Whether all tokens of a place are real text.

    Args:
      token_mask: [B, L, K] bool.
      target_mask: [B, L, K] bool, of `chunk_targets`; None: no chunk is closed.
        Only the last of a place may be: after it no text of its own follows.

    Returns:
      [B, P] bool.
    """
    rows, _, chunk_size = token_mask.shape
    first = (self.chunk_ids + 1) * chunk_size
    ahead = first[:, None] + np.arange(self.num_tokens)
    is_real = token_mask.reshape(rows, -1)[:, ahead]
    if target_mask is None or not self.counts_closed:
      return is_real.all(axis=-1)
    is_target = target_mask.reshape(rows, -1)[:, ahead[:, -chunk_size:]]
    return is_real[..., :-chunk_size].all(axis=-1) & is_target.all(axis=-1)


def select_positions(
  protocol: str, *, row_length: int, chunk_size: int
) -> Positions:
  """Places to score.

  Brier-4 looks at four tokens, so places with fewer before the end of the row
  are left out for every Brier-n.

  Args:
    protocol: "paper": after every chunk, as the authors do (§4.3); a chunk
      counts if all its tokens are real, or closed behind an end id in a run
      that closes its chunks. "grid:g": at text positions g, 2g, …, where the
      next g tokens are real, none of them behind an end: the same places for
      every chunk size that divides g and for token models, so that their scores
      compare.
    row_length: T, tokens.
    chunk_size: K; 1 for a token model.

  Returns:
    The places, P of them.

  Raises:
    ValueError: if the protocol is unknown, does not fit the chunk size, or
      leaves no place.
  """
  num_chunks = -(-NUM_ORDERS // chunk_size)
  if protocol == "paper":
    num_tokens = num_chunks * chunk_size
    first = np.arange(chunk_size, row_length - num_tokens + 1, chunk_size)
  else:
    num_tokens = _grid_step(protocol)
    if num_tokens % chunk_size or num_tokens < NUM_ORDERS:
      fitting = chunk_size * max(1, -(-8 // chunk_size))
      raise ValueError(
        f"positions {protocol!r} do not fit chunks of {chunk_size} tokens: the"
        f" step is a multiple of the chunk size and at least {NUM_ORDERS}; take"
        f" grid:{fitting} or paper."
      )
    first = np.arange(num_tokens, row_length - num_tokens + 1, num_tokens)
  if not len(first):
    raise ValueError(
      f"rows of {row_length} tokens leave nothing to score with positions"
      f" {protocol!r} and chunks of {chunk_size} tokens; take longer rows."
    )
  return Positions(
    (first // chunk_size - 1).astype(np.int32),
    num_chunks,
    num_tokens,
    counts_closed=protocol == "paper",
  )


def _grid_step(protocol: str) -> int:
  name, _, step = protocol.partition(":")
  if name != "grid" or not step.isdecimal():
    raise ValueError(
      f"positions are {protocol!r}; choose paper, or grid:8 (every 8 tokens)."
    )
  return int(step)
