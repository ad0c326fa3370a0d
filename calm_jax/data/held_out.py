"""Which text a split gets: validation files, or a share held out by hash."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence

from calm_jax.data import source_files, sources, tokenizer_base
from calm_jax.data.sources import Part

_SMALL = 100 << 20  # bytes; less text than that needs a larger share
_SMALL_SHARE, _SHARE = 0.05, 0.01
_FEW_TEXTS = 100  # fewer text files than that are cut to hold something out


class SplitInputs:
  """The documents of one part of a preparation, each with its split.

  Attributes:
    train: names of this part's training inputs.
    valid: names of its validation inputs; None if a share is held out.
    held_out: that share in words, or "".
    is_whole: whether this is the only part.
  """

  def __init__(
    self, train_input: str, valid_input: str | None, shard: tuple[int, int]
  ):
    """Lists the inputs and takes every n-th of them."""
    index, count = shard
    if not 0 <= index < count:
      raise ValueError(
        f"shard {index}/{count} is impossible; give i/n with i from 0 to n − 1."
      )
    self._all_train = sources.list_inputs(train_input)
    all_valid = sources.list_inputs(valid_input) if valid_input else []
    if both := set(self._all_train) & set(all_valid):
      raise ValueError(
        f"{min(both)} is both training and validation input; a model would be"
        " judged by what it was trained on."
      )
    if len(self._all_train) < count:
      raise ValueError(
        f"the input has {len(self._all_train)} files, fewer than the {count}"
        " shards; give more files or fewer shards."
      )
    self.is_whole = count == 1
    self.train = self._all_train[index::count]
    self.valid = all_valid[index::count] if valid_input else None
    self.size, _ = sources.estimate_size(self._all_train)
    self._share = _SMALL_SHARE if self.size < _SMALL else _SHARE
    self._stretch_size = min(max(self.size // 200, 1 << 10), 1 << 15)
    self._cuts_texts = len(self._all_train) < _FEW_TEXTS and all(
      sources.is_file(name) and source_files.kind_of(name).content == "txt"
      for name in self._all_train
    )
    unit = "stretches of text" if self._cuts_texts else "documents"
    self.held_out = (
      "" if valid_input else f"{100 * self._share:.0f} % of the {unit}, by hash"
    )

  def read(self) -> Iterator[tuple[str, bool, Part]]:
    """Yields (split, whether a document starts here, part of a document)."""
    yield from self._read_train(self.train)
    for is_first, part in _with_starts(self.valid or []):
      yield "valid", is_first, part

  def has_prompts(self) -> bool:
    """Whether the first training document has a prompt."""
    first = itertools.islice(self.read(), 1)
    return any(part.is_prompt for _, _, part in first)

  def sample(self, max_bytes: int) -> Iterator[str]:
    """An even sample of the training text of *all* parts of a preparation.

    Every machine reads the same sample, so all parts get the same tokenizer.
    """
    stride = -(-self.size // max_bytes) or 1
    left = max_bytes
    for number, (split, _, part) in enumerate(
      self._read_train(self._all_train)
    ):
      if split == "train" and number % stride == 0:
        yield part.text
        left -= part.num_bytes
      if left <= 0:
        return

  def _read_train(
    self, names: Sequence[str]
  ) -> Iterator[tuple[str, bool, Part]]:
    if self.valid is not None:
      for is_first, part in _with_starts(names):
        yield "train", is_first, part
    elif self._cuts_texts:
      yield from self._hold_out_stretches(names)
    else:
      yield from self._hold_out_documents(names)

  def _hold_out_documents(
    self, names: Sequence[str]
  ) -> Iterator[tuple[str, bool, Part]]:
    split, prompt = "train", None
    for is_first, part in _with_starts(names):
      if part.is_prompt:  # many documents may share it
        prompt = part
        continue
      if prompt is not None:
        is_held_out = self._is_held_out(prompt.text + part.text)
        split = "valid" if is_held_out else "train"
        yield split, True, prompt
        prompt = None
      elif is_first:  # of a document in several parts, the first one decides
        split = "valid" if self._is_held_out(part.text) else "train"
      yield split, is_first, part

  def _hold_out_stretches(
    self, names: Sequence[str]
  ) -> Iterator[tuple[str, bool, Part]]:
    """Cuts texts where a stretch is held out: a document ends before it."""
    is_first = True
    for part in sources.read_parts(names):
      texts = list(tokenizer_base.slice_text(part.text, self._stretch_size))
      for text in texts:
        if self._is_held_out(text):
          if not is_first:
            yield "train", False, Part("", 0, True)
          yield "valid", True, Part(text, len(text.encode()), True)
          is_first = True
        else:
          yield "train", is_first, Part(text, len(text.encode()), False)
          is_first = False
      if part.is_last and not is_first:
        yield "train", False, Part("", 0, True)
        is_first = True

  def _is_held_out(self, text: str) -> bool:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < self._share * 2**64


def _with_starts(names: Sequence[str]) -> Iterator[tuple[bool, Part]]:
  is_first = True
  for part in sources.read_parts(names):
    yield is_first, part
    is_first = part.is_last
