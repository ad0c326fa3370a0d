"""Which window lends its context to which, for the permuted control."""

from typing import NamedTuple

import numpy as np


class Loan(NamedTuple):
  """What one batch borrows; places are those of [other, last, *rows]."""

  lenders: np.ndarray  # [B] places of the rows that lend
  is_same: np.ndarray  # [B] bool, perhaps of the same document
  groups: np.ndarray  # [B] number of the document that each row ends in
  kept: np.ndarray  # [2] places of the next batch's other and last


class Donors:
  """Goes through the windows in order and finds each a lender.

  The lender is the nearest window before, of which no document reaches into
  this one: a begin id stands between them. So two rows are enough to carry from
  batch to batch: the last one, and the last one of other documents. Of windows
  that are not neighbours only the begin ids within them are seen; a lender may
  then be further away than need be, but is of another document.
  """

  def __init__(self):
    self._group = 0
    self._has_last = self._has_other = False
    self.first_of_last = 0  # the document that the last window begins in

  def choose(self, token_mask: np.ndarray) -> Loan:
    """Finds the lenders of a batch.

    Args:
      token_mask: [B, L, K] bool of `Batch`; rows of padding stand last.

    Returns:
      The loan. A window without one borrows of the window before, which the
      first one has not: `is_same` says so.
    """
    size = len(token_mask)
    lenders: np.ndarray = np.ones(size, np.int32)
    groups: np.ndarray = np.zeros(size, np.int64)
    is_same: np.ndarray = np.zeros(size, bool)
    other, last = 0, 1
    for i, mask in enumerate(token_mask.reshape(size, -1)):
      if not mask.any():
        continue
      # Begin ids; one may stand last. Padding ends the last window alone.
      begins = ~mask[: np.flatnonzero(mask)[-1] + 2]
      first = self._group + int(begins[:1].any())
      group = first + int(begins[1:].any())
      if self._has_last and self._group < first:
        lenders[i] = last
      elif self._has_other:
        lenders[i] = other
      else:
        lenders[i], is_same[i] = last, True
      if self._has_last and self._group < group:
        other, self._has_other = last, True
      last, self._has_last = 2 + i, True
      self._group = groups[i] = group
      self.first_of_last = first
    return Loan(lenders, is_same, groups, np.array([other, last], np.int32))
