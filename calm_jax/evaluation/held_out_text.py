"""What a run is measured on: prepared data, or text files as they are."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from calm_jax import paths
from calm_jax.config import VocabularyConfig
from calm_jax.data import sources
from calm_jax.data.source_files import Part
from calm_jax.data.store import TokenStore
from calm_jax.data.store_layout import INFO_FILE, mark
from calm_jax.data.tokenizer import Tokenizer
from calm_jax.data.tokenizer_base import hash_parts

_GROUP_SIZE = 256  # texts that are encoded at once, on all cores


class HeldOutText:
  """Documents in memory, as one stream like that of a `TokenStore`."""

  def __init__(self, parts: Iterable[Part], tokenizer: Tokenizer, *, name: str):
    """Encodes the documents.

    Args:
      parts: of documents, in order.
      tokenizer: of the run.
      name: for messages.

    Raises:
      OSError, ValueError: if a part cannot be read, or all of them are empty.
    """
    self.path = name
    self.vocabulary: VocabularyConfig = tokenizer.vocabulary
    marked = np.concatenate([np.empty(0, np.int32), *_stream(parts, tokenizer)])
    self._is_prompt = marked < 0
    self._tokens = np.where(self._is_prompt, mark(marked), marked)
    controls = (self.vocabulary.begin_id, self.vocabulary.end_id)
    if np.isin(self._tokens, controls).all():
      raise ValueError(f"{name} has no text; give documents with text.")
    self.content_hash = hash_parts(
      tokenizer.content_hash.encode(), marked.tobytes()
    )

  def num_rows(self, split: str, row_length: int) -> int:
    """Rows of T tokens; there are no splits."""
    del split
    return -(-len(self._tokens) // row_length)

  def num_tokens(self, split: str) -> int:
    del split
    return len(self._tokens)

  def read(self, split: str, start: int, stop: int) -> np.ndarray:
    del split
    return self._tokens[start:stop]

  def read_marked(
    self, split: str, start: int, stop: int
  ) -> tuple[np.ndarray, np.ndarray]:
    del split
    return self._tokens[start:stop], self._is_prompt[start:stop]


def read_files(inputs: str, tokenizer: Tokenizer) -> HeldOutText:
  """Reads files as `launch.prepare` takes them."""
  parts = sources.read_parts(sources.list_inputs(inputs))
  return HeldOutText(parts, tokenizer, name=inputs)


def open_text(data: str, tokenizer: Tokenizer) -> TokenStore | HeldOutText:
  """Opens what `--data` names.

  Args:
    data: a prepared directory, or files as `launch.prepare` takes them, which
      are read whole with the run's tokenizer.
    tokenizer: of the run.

  Returns:
    What `eval_batches` reads.

  Raises:
    OSError: if there is nothing there.
    ValueError: if the data was prepared with another tokenizer.
  """
  path = paths.expanded(data)
  if not data or not path.is_dir():
    return read_files(data, tokenizer)
  if not (path / INFO_FILE).exists() and not any(path.glob("part-*")):
    raise ValueError(
      f"{data} is a directory but holds no prepared data; give one written by"
      " `python -m launch.prepare`, or text files."
    )
  store = TokenStore(path)
  if store.tokenizer.content_hash != tokenizer.content_hash:
    raise ValueError(
      f"{data} was prepared with another tokenizer (hash"
      f" {store.tokenizer.content_hash[:12]}) than the run's"
      f" ({tokenizer.content_hash[:12]}); give the text files themselves, or"
      " prepare them with --tokenizer=RUN/tokenizer."
    )
  return store


def _stream(
  parts: Iterable[Part], tokenizer: Tokenizer
) -> Iterator[np.ndarray]:
  """Begin + document + end for every document."""
  vocabulary = tokenizer.vocabulary
  begin = np.array([vocabulary.begin_id], np.int32)
  end = np.array([vocabulary.end_id], np.int32)
  is_first = True
  parts = iter(parts)
  while group := list(itertools.islice(parts, _GROUP_SIZE)):
    starts = [is_first, *(part.is_last for part in group[:-1])]
    encoded = tokenizer.encode_all([part.text for part in group], starts)
    for part, tokens in zip(group, encoded, strict=True):
      if is_first:
        yield begin
      yield mark(tokens) if part.is_prompt else tokens
      if part.is_last:
        yield end
      is_first = part.is_last
