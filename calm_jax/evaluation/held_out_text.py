"""What a run is measured on: prepared data, or text files as they are."""

from collections.abc import Iterator

import numpy as np
from etils import epath

from calm_jax.config import VocabularyConfig
from calm_jax.data import sources
from calm_jax.data.store import TokenStore
from calm_jax.data.store_layout import INFO_FILE
from calm_jax.data.tokenizer import Tokenizer
from calm_jax.data.tokenizer_base import hash_parts

_GROUP_SIZE = 256  # texts that are encoded at once, on all cores


class TextFiles:
  """Files, read into memory as one stream like that of a `TokenStore`."""

  def __init__(self, inputs: str, tokenizer: Tokenizer):
    """Reads and encodes the documents.

    Args:
      inputs: as `launch.prepare` takes them.
      tokenizer: of the run.

    Raises:
      OSError, ValueError: if a file cannot be read or holds no text.
    """
    self.path = inputs
    self.vocabulary: VocabularyConfig = tokenizer.vocabulary
    self._tokens = np.concatenate(
      [np.empty(0, np.int32), *_stream(inputs, tokenizer)]
    )
    controls = (self.vocabulary.begin_id, self.vocabulary.end_id)
    if np.isin(self._tokens, controls).all():
      raise ValueError(f"{inputs} has no text; give files with text.")
    self.content_hash = hash_parts(
      tokenizer.content_hash.encode(), self._tokens.tobytes()
    )

  def num_rows(self, split: str, row_length: int) -> int:
    """Rows of T tokens; files have no splits."""
    del split
    return -(-len(self._tokens) // row_length)

  def num_tokens(self, split: str) -> int:
    del split
    return len(self._tokens)

  def read(self, split: str, start: int, stop: int) -> np.ndarray:
    del split
    return self._tokens[start:stop]


def open_text(data: str, tokenizer: Tokenizer) -> TokenStore | TextFiles:
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
  path = epath.Path(data).expanduser()
  if not data or not path.is_dir():
    return TextFiles(data, tokenizer)
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


def _stream(inputs: str, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
  """Begin + document + end for every document."""
  vocabulary = tokenizer.vocabulary
  begin = np.array([vocabulary.begin_id], np.int32)
  end = np.array([vocabulary.end_id], np.int32)
  is_first = True
  parts = list(sources.read_parts(sources.list_inputs(inputs)))
  for start in range(0, len(parts), _GROUP_SIZE):
    group = parts[start : start + _GROUP_SIZE]
    encoded = tokenizer.encode_all([part.text for part in group])
    for part, tokens in zip(group, encoded, strict=True):
      if is_first:
        yield begin
      yield tokens
      if part.is_last:
        yield end
      is_first = part.is_last
