"""Token ids to text as they come."""

import codecs
from collections.abc import Sequence

import numpy as np

from calm_jax.data.tokenizer import Tokenizer


class TextStream:
  """Turns ids into text piece by piece, up to a stop string.

  A character whose bytes are spread over several tokens appears when its last
  byte is there; text that may be the beginning of a stop string appears when
  it turns out not to be one.

  Attributes:
    text: all that was given out.
    is_stopped: a stop string was found; nothing more comes.
  """

  def __init__(self, tokenizer: Tokenizer, stop: str | Sequence[str] = ()):
    """Begins a text.

    Args:
      tokenizer: of the ids.
      stop: one string or several; empty ones stop nothing.
    """
    self.text = ""
    self.is_stopped = False
    self._tokenizer = tokenizer
    stop = [stop] if isinstance(stop, str) else stop
    self._stop = [string for string in stop if string]
    self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
    self._held = ""

  def add(self, ids: Sequence[int] | np.ndarray, *, is_last=False) -> str:
    """Adds ids and returns the text that is certain now.

    Args:
      ids: [n].
      is_last: nothing follows, so what was held back is given out.

    Returns:
      The new text, without the stop string.
    """
    if self.is_stopped:
      return ""
    data = self._tokenizer.decode_bytes(ids)
    self._held += self._decoder.decode(data, final=is_last)
    places = [(self._held.find(string), len(string)) for string in self._stop]
    # The match that ends first, and of those the longest: where it begins would
    # depend on how much of the text is there.
    ends = [(place + size, place) for place, size in places if place >= 0]
    if ends:
      self.is_stopped = True
      new, self._held = self._held[: min(ends)[1]], ""
    else:
      kept = 0 if is_last else self._num_held()
      cut = len(self._held) - kept
      new, self._held = self._held[:cut], self._held[cut:]
    self.text += new
    return new

  def _num_held(self) -> int:
    """Characters at the end that may begin a stop string."""
    for size in range(max(map(len, self._stop), default=1) - 1, 0, -1):
      tail = self._held[-size:]
      if len(tail) == size and any(s.startswith(tail) for s in self._stop):
        return size
    return 0
