"""What all tokenizers share: every id stands for a piece of bytes."""

from __future__ import annotations

import abc
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from calm_jax import json_files
from calm_jax.config import VocabularyConfig

INFO_FILE = "tokenizer_info.json"
FORMAT_VERSION = 1

_CUT = re.compile(r"(?<=\S)(?= \S)|(?<=\n)(?=\S)")


class Tokenizer(abc.ABC):
  """Text to token ids and back.

  Attributes:
    kind: the name under which a saved tokenizer is found again.
    vocabulary: the ids a model needs to know.
    pieces: the bytes each id stands for, V of them; control ids stand for b"".
    content_hash: sha256 of all that defines the ids, as 64 hexadecimal digits.
    is_exact: whether every text comes back; one that does not is an error.
  """

  kind: str
  vocabulary: VocabularyConfig
  pieces: Sequence[bytes]
  content_hash: str
  is_exact: bool = False
  padded_size: int | None = None  # set by `pad`

  def encode(self, text: str) -> np.ndarray:
    """Turns text into ids, without begin and end ids.

    Args:
      text: any Unicode text without lone surrogates.

    Returns:
      [n] int32.

    Raises:
      ValueError: if the text holds a lone surrogate, which has no UTF-8 form,
        or is lost on the way though the tokenizer is exact.
    """
    return self.encode_all([text])[0]

  def encode_all(
    self, texts: Sequence[str], starts: Sequence[bool] | None = None
  ) -> list[np.ndarray]:
    """Encodes several texts on all cores; see `encode`.

    Args:
      texts: each a whole one, or a part cut as `slice_text` cuts.
      starts: whether each is the first part of its text; None: all are.

    Returns:
      [n] int32 each. The ids of all parts are those of the whole text.
    """
    starts = [True] * len(texts) if starts is None else starts
    slices: list[str] = []
    is_start: list[bool] = []
    stops = []
    for text, starts_here in zip(texts, starts, strict=True):
      check_encodable(text)
      own = [part for part in self._slice(text) if part]
      slices += own
      is_start += [starts_here and i == 0 for i in range(len(own))]
      stops.append(len(slices))
    lists = self._encode_slices(slices, is_start)
    arrays = [np.asarray(ids, np.int32) for ids in lists]
    found = [
      np.concatenate([np.empty(0, np.int32), *arrays[start:stop]])
      for start, stop in zip([0, *stops], stops, strict=False)
    ]
    if self.is_exact:
      for text, ids, starts_here in zip(texts, found, starts, strict=True):
        self._check_kept(text, ids, starts_here)
    return found

  @abc.abstractmethod
  def _slice(self, text: str) -> Iterable[str]:
    """Cuts a text into slices whose ids, one after another, are its ids."""

  @abc.abstractmethod
  def _encode_slices(
    self, slices: list[str], is_start: list[bool]
  ) -> Sequence[Sequence[int]]:
    """The ids of each slice, none of them empty; some begin a text."""

  def _check_kept(self, text: str, ids: np.ndarray, starts: bool) -> None:
    """Raises ValueError if bytes were lost or added."""
    num_bytes = len(text.encode()) + self._num_added(text, starts)
    found = int(self._lengths[ids].sum())
    if found != num_bytes:
      raise ValueError(
        f"this tokenizer keeps {found} of the {num_bytes} bytes of a text that"
        f" begins with {text[:40]!r}; its file is damaged, or of a kind that"
        " cannot be read."
      )

  def _num_added(self, text: str, starts: bool) -> int:
    """Bytes that its ids hold and the text does not."""
    del text, starts
    return 0

  @functools.cached_property
  def _lengths(self) -> np.ndarray:
    return np.array([len(piece) for piece in self.pieces], np.int64)

  @abc.abstractmethod
  def _write_files(self, directory: epath.Path) -> None:
    """Writes what `load_tokenizer` needs besides the info file."""

  def decode(self, ids: Iterable[int], is_start: bool = True) -> str:
    """Turns ids into text; bytes that are not UTF-8 become U+FFFD.

    Args:
      ids: [n], each from 0 to V − 1; control ids give nothing.
      is_start: whether the text begins with them.

    Returns:
      The text.

    Raises:
      ValueError: if an id is not one of the vocabulary.
    """
    del is_start
    return self.decode_bytes(ids).decode("utf-8", errors="replace")

  def decode_bytes(self, ids: Iterable[int]) -> bytes:
    """Turns ids [n] into the bytes they stand for, for text in pieces."""
    array = np.asarray(ids if hasattr(ids, "__len__") else list(ids))
    if array.size == 0:
      return b""
    if array.min() < 0 or array.max() >= len(self.pieces):
      wrong = array[(array < 0) | (array >= len(self.pieces))][0]
      raise ValueError(
        f"token id {wrong} is not one of this tokenizer's"
        f" {len(self.pieces)} (0 … {len(self.pieces) - 1}); is it the"
        " tokenizer the model was trained with?"
      )
    return b"".join(self.pieces[i] for i in array.tolist())

  def pad(self, size: int) -> None:
    """Adds ids that stand for no text and are never predicted.

    Args:
      size: of the vocabulary then, larger than it is.
    """
    assert self.padded_size is None and size > self.vocabulary.size
    added = range(self.vocabulary.size, size)
    self.padded_size = size
    self.pieces = [*self.pieces, *(b"" for _ in added)]
    self.vocabulary = VocabularyConfig(
      size=size,
      begin_id=self.vocabulary.begin_id,
      end_id=self.vocabulary.end_id,
      unscored_ids=(*self.vocabulary.unscored_ids, *added),
    )
    self.content_hash = self.padded_hash(size)
    self.__dict__.pop("_lengths", None)

  def padded_hash(self, size: int) -> str:
    """The content hash that `pad` gives."""
    return hash_parts(b"padded", self.content_hash.encode(), str(size).encode())

  def save(self, directory: epath.PathLike) -> None:
    """Writes the tokenizer so that `load_tokenizer` finds it again."""
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    self._write_files(directory)
    info = {
      "format_version": FORMAT_VERSION,
      "kind": self.kind,
      "content_hash": self.content_hash,
    }
    if self.padded_size is not None:
      info["padded_size"] = self.padded_size
    json_files.write_json(directory / INFO_FILE, info)


def slice_text(text: str, size: int = 1 << 16) -> Iterator[str]:
  """Cuts text between words or lines into slices of about `size` characters.

  A cut falls before the single space between two words, or after a newline
  that no white space follows. No tokenizer of ours joins what stands on the
  two sides of such a place, so the slices give the ids of the whole.
  """
  start = 0
  while start < len(text):
    cut = _CUT.search(text, start + size)
    end = cut.start() if cut else len(text)
    yield text[start:end]
    start = end


def check_encodable(text: str) -> None:
  """Raises ValueError, naming the place, if the text has no UTF-8 form."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f"the text has the lone surrogate U+{ord(text[error.start]):04X} at"
      f" character {error.start}, which no UTF-8 text can hold; remove it or"
      " replace it, for example by U+FFFD."
    ) from None


def check_same_tokenizer(
  what: str, path: epath.PathLike, found: Tokenizer, wanted: Tokenizer
) -> None:
  """Raises ValueError if a run has another tokenizer than data.

  Args:
    what: the run is, such as "the autoencoder".
    path: of the run.
    found: its tokenizer.
    wanted: that of the data.
  """
  if found.content_hash != wanted.content_hash:
    raise ValueError(
      f"{what} in {path} was trained with another tokenizer (hash"
      f" {found.content_hash[:12]}) than that of the data"
      f" ({wanted.content_hash[:12]}); prepare the data with its tokenizer:"
      f" --tokenizer={path}/tokenizer."
    )


def hash_parts(*parts: bytes) -> str:
  """sha256 over length-prefixed parts, so that no two lists collide."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(len(part).to_bytes(8, "little"))
    digest.update(part)
  return digest.hexdigest()
