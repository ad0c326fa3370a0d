"""Text as users have it: UTF-8, in lines, perhaps with a mark in front."""

import codecs

from etils import epath

BYTE_ORDER_MARK = codecs.BOM_UTF8


def read_lines(path: epath.PathLike) -> list[str]:
  """Reads the lines of a file, see `split_lines`.

  Raises:
    OSError: if it cannot be read.
    ValueError: if it is not UTF-8, naming the line.
  """
  return split_lines(decode(epath.Path(path).read_bytes(), path))


def split_lines(text: str) -> list[str]:
  r"""Cuts at \n and \r\n, and nowhere else.

  `str.splitlines` also cuts at form feeds, U+0085 and other signs that stand
  inside a line of a text. What follows the last end of a line is one, too,
  unless it is empty.
  """
  *lines, last = text.split("\n")
  return [line.removesuffix("\r") for line in lines] + [last] * bool(last)


def decode(data: bytes, path: epath.PathLike) -> str:
  """Decodes a whole file; one byte-order mark in front is no text.

  Raises:
    ValueError: if it is not UTF-8, naming the line.
  """
  try:
    return data.decode().removeprefix("\ufeff")
  except UnicodeDecodeError as error:
    line = data[: error.start].count(b"\n") + 1
    raise not_utf8(path, line, data[error.start], error.start) from None


def not_utf8(
  path: epath.PathLike, line: int, byte: int, offset: int
) -> ValueError:
  """What is said of a byte that cannot be decoded."""
  return ValueError(
    f"{path}, line {line}: byte 0x{byte:02X} at offset {offset} of the file is"
    " not UTF-8; convert the file, for example with iconv."
  )
