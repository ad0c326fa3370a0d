"""How varied token sequences are: what a low perplexity must not hide."""

import collections
from collections.abc import Sequence

import numpy as np

_ORDERS = (1, 2, 3, 4)


def diversity(sequences: Sequence[Sequence[int]]) -> dict[str, float]:
  """Unigram entropy and distinct-n of all sequences together.

  Text that repeats itself is likely under any model. So are texts of samplers
  made for it at no small entropy, whose perplexity then means as little
  (arXiv:2606.08417).

  Args:
    sequences: token ids. Both measures depend on how many there are, so compare
      equal numbers of sequences of equal lengths only.

  Returns:
    `unigram_entropy` in nats, −Σ p log p of the tokens' shares, and
    `distinct_n` for n = 1 … 4, different n-grams over all; 0 where none is.
  """
  result: dict[str, float] = {}
  for n in _ORDERS:
    grams = collections.Counter(
      tuple(ids[i : i + n])
      for ids in map(tuple, sequences)
      for i in range(len(ids) - n + 1)
    )
    total = grams.total()
    if n == 1:
      p = np.array([*grams.values()], np.float64) / max(total, 1)
      result["unigram_entropy"] = float(-(p * np.log(p)).sum())
    result[f"distinct_{n}"] = len(grams) / max(total, 1)
  return result
