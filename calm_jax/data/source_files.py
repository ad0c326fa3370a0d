"""Documents from files: text, JSON lines, Parquet, compressed or not."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import zstandard
from etils import epath

from calm_jax import json_files
from calm_jax.data import tokenizer_base
from calm_jax.text_files import BYTE_ORDER_MARK, not_utf8

_MAX_WINDOW = 1 << 31  # bytes; what `zstd --long=31` needs
# What libraries say of data that is whole, and that they cannot read.
_UNSUPPORTED = {
  "Not a gzipped file": "is no gzip data",
  "Unknown compression method": "is gzip data of an unknown method",
  "Unknown frame descriptor": "is no zstd data",
  "Dictionary mismatch": "was compressed with a dictionary",
  "too much memory": "needs more than 2 GiB to be decompressed",
  "nsupported": "is zstd data with settings that this version cannot read",
}
_PART_SIZE = 1 << 20  # bytes; a longer text file comes in several parts


class Part(NamedTuple):
  """A document, or a part of one that is too large to be held at once.

  Attributes:
    text: without lone surrogates.
    num_bytes: of the text in UTF-8.
    is_last: whether the document ends here.
    is_prompt: given, and not what a model is to learn to write.
  """

  text: str
  num_bytes: int
  is_last: bool
  is_prompt: bool = False


class Kind(NamedTuple):
  """What the name of a file says about its content.

  Attributes:
    content: "txt", "jsonl" or "parquet".
    compression: "", "gz" or "zst".
  """

  content: str
  compression: str


_KINDS = {
  f".{content}{compression and '.'}{compression}": Kind(content, compression)
  for content, compressions in {
    "txt": ("", "gz", "zst"),
    "jsonl": ("", "gz", "zst"),
    "parquet": ("",),
  }.items()
  for compression in compressions
}
SUFFIXES = tuple(_KINDS)


def kind_of(name: str) -> Kind:
  """The kind of a file; raises ValueError if it is none that is known."""
  for suffix, kind in _KINDS.items():
    if name.endswith(suffix):
      return kind
  raise ValueError(
    f"{name} is of a kind that cannot be read; known are {', '.join(SUFFIXES)}."
  )


def read_parts(path: epath.Path) -> Iterator[Part]:
  """Reads the documents of one file: a text file is one document."""
  return _READERS[kind_of(str(path)).content](path)


def make_part(text: str, place: str) -> Part:
  """A whole document; raises ValueError naming `place` for bad characters."""
  try:
    return Part(text, len(text.encode()), True)
  except UnicodeEncodeError as error:
    raise ValueError(
      f"{place}: character {error.start} of the text is the lone surrogate"
      f" U+{ord(text[error.start]):04X}, which is no character; remove it or"
      " write U+FFFD."
    ) from None


def _read_text(path: epath.Path) -> Iterator[Part]:
  """One document; a long one is cut between words or lines."""
  decoder = codecs.getincrementaldecoder("utf-8")()
  is_start = True  # no character was read yet
  rest = ""  # text that is not given out yet
  position = num_lines = 0  # bytes and newlines before the chunk
  chunk = b"first"
  with _open(path) as file:
    while chunk:
      chunk = _read_chunk(file, path, num_lines)
      pending = len(decoder.getstate()[0])
      try:
        text = decoder.decode(chunk, final=not chunk)
      except UnicodeDecodeError as error:
        inside = error.start - pending  # negative: begun in an earlier chunk
        line = num_lines + chunk[: max(inside, 0)].count(b"\n") + 1
        byte = error.object[error.start]
        raise not_utf8(path, line, byte, position + inside) from None
      rest += text.removeprefix("\ufeff") if is_start else text
      is_start = is_start and not text
      position += len(chunk)
      num_lines += chunk.count(b"\n")
      *whole, rest = list(tokenizer_base.slice_text(rest, _PART_SIZE)) or [""]
      for text in whole:
        yield Part(text, len(text.encode()), False)
  yield Part(rest, len(rest.encode()), True)


def _read_json_lines(path: epath.Path) -> Iterator[Part]:
  position = 0
  with _open(path) as file:
    for number in range(1, 1 << 62):
      line = whole = _read_line(file, path, number)
      if not line:
        return
      if number == 1:
        line = line.removeprefix(BYTE_ORDER_MARK)
      if line and not line.isspace():
        start = position + len(whole) - len(line)
        yield from _parse_json(line, path, number, start)
      position += len(whole)


def _parse_json(
  line: bytes, path: epath.Path, number: int, position: int
) -> list[Part]:
  """One document: a text, or a prompt and its completion."""
  place = f"{path}, line {number}"
  try:
    record = json_files.parse(line.decode(), is_finite=False)
  except UnicodeDecodeError as error:
    byte = line[error.start]
    raise not_utf8(path, number, byte, position + error.start) from None
  except ValueError as error:
    raise ValueError(
      f"{place}: this is not JSON that can be read ({error}); a .jsonl file has"
      ' one object a line, such as {"text": "…"}.'
    ) from None
  if isinstance(record, dict) and {"prompt", "completion"} & set(record):
    return _parse_pair(record, place)
  if not isinstance(record, dict) or not isinstance(record.get("text"), str):
    found = (
      f"fields {', '.join(map(repr, record)) or 'none'}"
      if isinstance(record, dict) and "text" not in record
      else f"{type(record.get('text')).__name__} as 'text'"
      if isinstance(record, dict)
      else f"a {type(record).__name__}"
    )
    raise ValueError(
      f"{place}: an object with a string 'text' was expected, and {found[:200]}"
      " found; rename the field or convert the file."
    )
  return [make_part(record["text"], place)]


def _parse_pair(record: dict[str, Any], place: str) -> list[Part]:
  if "text" in record:
    raise ValueError(
      f"{place}: 'text' stands beside a prompt or completion; a line holds a"
      " text, or a prompt and its completion."
    )
  for name in ("prompt", "completion"):
    if not isinstance(record.get(name), str):
      found = type(record[name]).__name__ if name in record else "nothing"
      raise ValueError(
        f"{place}: strings 'prompt' and 'completion' were expected together,"
        f" and {name!r} is {found}; write both, the prompt may be empty."
      )
  if not record["completion"]:
    raise ValueError(
      f"{place}: the completion is empty, so there is nothing to learn; leave"
      " the line out."
    )
  prompt = make_part(record["prompt"], f"{place}, prompt")
  completion = make_part(record["completion"], f"{place}, completion")
  return [prompt._replace(is_last=False, is_prompt=True), completion]


def _read_parquet(path: epath.Path) -> Iterator[Part]:
  # Imported late: it takes a third of a second and few need it.
  import pyarrow
  import pyarrow.parquet

  row = 0
  with path.open("rb") as file:
    try:
      table = pyarrow.parquet.ParquetFile(file)
      names = table.schema_arrow.names
      batches = table.iter_batches(batch_size=256, columns=["text"])
      if "text" not in names:
        raise _WrongColumnError(
          f"{path} has the columns {', '.join(names)}; a column 'text' of"
          " strings was expected."
        )
      for batch in batches:
        for value in batch.column(0):
          row += 1
          text = value.as_py()
          if not isinstance(text, str):
            raise _WrongColumnError(
              f"{path}, row {row}: 'text' is of type {type(text).__name__};"
              " a string was expected."
            )
          yield make_part(text, f"{path}, row {row}")
    except _WrongColumnError:
      raise
    except UnicodeDecodeError as error:
      raise ValueError(
        f"{path}, row {row}: byte 0x{error.object[error.start]:02X} at"
        f" {error.start} of the text is not UTF-8; convert the file."
      ) from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
      if getattr(error, "errno", None) is not None:
        raise  # of the disk, and not of what is in the file
      raise ValueError(
        f"{path} is not a readable Parquet file, row {row + 1} or soon after:"
        f" {' '.join(str(error).split())[:200]}"
      ) from None


class _WrongColumnError(ValueError):
  """A Parquet file that can be read and holds something else."""


_READERS = {
  "txt": _read_text,
  "jsonl": _read_json_lines,
  "parquet": _read_parquet,
}


@contextlib.contextmanager
def _open(path: epath.Path) -> Iterator[BinaryIO]:
  """Opens a file and undoes its compression."""
  decompressed = _DECOMPRESSED[kind_of(str(path)).compression]
  with path.open("rb") as file, decompressed(file) as content:
    yield content


class _ZstdReader(io.RawIOBase):
  """Decompresses frames; unlike the library's reader it notices a cut file."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self._decompressor = _new_decompressor()
    self._is_inside_frame = False
    self._content = memoryview(b"")
    self._input = b""

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: memoryview) -> int:
    while not self._content:
      self._input = self._input or self._file.read(1 << 17)
      if not self._input:
        if self._is_inside_frame:
          raise EOFError("the last frame is incomplete")
        return 0
      self._content = memoryview(self._decompressor.decompress(self._input))
      self._input = self._decompressor.unused_data
      self._is_inside_frame = not self._decompressor.eof
      if self._decompressor.eof:
        self._decompressor = _new_decompressor()
    size = min(len(buffer), len(self._content))
    buffer[:size] = self._content[:size]
    self._content = self._content[size:]
    return size


def _new_decompressor() -> zstandard.ZstdDecompressionObj:
  options = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
  return options.decompressobj()


_DECOMPRESSED = {
  "": contextlib.nullcontext,
  "gz": gzip.open,
  "zst": lambda file: io.BufferedReader(_ZstdReader(file), 1 << 20),
}
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


def _read_line(file: BinaryIO, path: epath.Path, number: int) -> bytes:
  try:
    return file.readline()
  except _DAMAGED as error:
    raise _damaged(path, number, error) from None


def _read_chunk(file: BinaryIO, path: epath.Path, num_lines: int) -> bytes:
  try:
    return file.read(_PART_SIZE)
  except _DAMAGED as error:
    raise _damaged(path, num_lines + 1, error) from None


def _damaged(path: epath.Path, number: int, error: Exception) -> ValueError:
  for said, meaning in _UNSUPPORTED.items():
    if said in str(error):
      return ValueError(
        f"{path}, line {number} or soon after: the file {meaning} ({error});"
        " name it by what it is, or compress it again with gzip or zstd alone."
      )
  return ValueError(
    f"{path}, line {number} or soon after: the compressed data is damaged or"
    f" cut short ({error}); copy the file again."
  )
