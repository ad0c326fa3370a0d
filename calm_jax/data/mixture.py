"""Which source the g-th row of a weighted mixture comes from.

A pure function of g, so that the position in a mixture is one integer.
"""

from __future__ import annotations

import bisect
import fractions
import sys
from collections.abc import Sequence

# The length of a mixture without an end. A power of two: grain divides lengths
# by the batch size as floats, and `sys.maxsize` would be rounded up.
_ENDLESS = 1 << 60


class MixtureMap:
  """Interleaves sources as evenly as their weights allow.

  After g rows each source has given its share of g up to rounding. A source
  of finite length ends when all of it was given; the others go on with their
  weights.
  """

  def __init__(self, lengths: Sequence[int], weights: Sequence[float]):
    """Plans the mixture.

    Args:
      lengths: rows of each source; `sys.maxsize` for one without an end.
      weights: shares, relative to each other.
    """
    # As they are written: 0.1 is a tenth, and no weight rounds to nothing.
    shares = [fractions.Fraction(str(float(weight))) for weight in weights]
    self._phases: list[_Phase] = []
    self._starts: list[int] = []
    offsets = [0] * len(lengths)
    start = 0
    while alive := [i for i in range(len(lengths)) if offsets[i] < lengths[i]]:
      phase = _Phase(alive, [shares[i] for i in alive], list(offsets))
      self._phases.append(phase)
      self._starts.append(start)
      # Only a source that has an end can end a phase.
      limits = [
        lengths[i] - offsets[i] if lengths[i] < sys.maxsize else None
        for i in alive
      ]
      if not any(limits):
        start = _ENDLESS
        break
      length = phase.length(limits)
      for i, count in zip(alive, phase.counts(length), strict=True):
        offsets[i] += count
      start += length
    self._length = min(start, _ENDLESS)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, index: int) -> tuple[int, int]:
    """The source of row `index` and the number of its row there."""
    number = bisect.bisect_right(self._starts, index) - 1
    return self._phases[number].find(index - self._starts[number])


class _Phase:
  """A stretch of the mixture during which no source ends.

  The sources are joined one after another: of k rows the first i sources
  together give ⌊share · (rows of the first i+1 sources)⌋, so each count grows
  with k and they add up to k.
  """

  def __init__(
    self,
    sources: list[int],
    weights: list[fractions.Fraction],
    offsets: list[int],
  ):
    self._sources = sources
    self._offsets = offsets
    totals = [sum(weights[: i + 1]) for i in range(len(weights))]
    # Share of the sources before i among those up to i.
    self._shares = [
      (total - weight) / total
      for total, weight in zip(totals, weights, strict=True)
    ]

  def counts(self, num_rows: int) -> list[int]:
    """Rows of each source among the first `num_rows`."""
    result = []
    for share in reversed(self._shares):
      before = num_rows * share.numerator // share.denominator
      result.append(num_rows - before)
      num_rows = before
    return result[::-1]

  def find(self, index: int) -> tuple[int, int]:
    for i in reversed(range(len(self._sources))):
      share = self._shares[i]
      before = index * share.numerator // share.denominator
      after = (index + 1) * share.numerator // share.denominator
      if before == after:
        source = self._sources[i]
        return source, self._offsets[source] + index - before
      index = before
    raise AssertionError("the first source's share of earlier ones is 0")

  def length(self, limits: list[int | None]) -> int:
    """Most rows that take no more than `limits` of any source."""
    low, high = 0, 1
    while self._fits(high, limits):
      low, high = high, 2 * high
    while high - low > 1:
      middle = (low + high) // 2
      if self._fits(middle, limits):
        low = middle
      else:
        high = middle
    return low

  def _fits(self, num_rows: int, limits: list[int | None]) -> bool:
    return all(
      limit is None or count <= limit
      for count, limit in zip(self.counts(num_rows), limits, strict=True)
    )
