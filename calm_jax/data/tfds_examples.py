"""Examples of a TFDS split, and errors that name the file they come from."""

from __future__ import annotations

from typing import Any

import tensorflow_datasets as tfds


class DamagedFileError(ValueError):
  """A file of a data set that cannot be read, in a few words with its path."""


class Examples:
  """The examples of a split, by number.

  Attributes:
    features: what an example has, by name.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
    """Opens a split of a data set that was prepared as array_record.

    Raises:
      Exception: of any kind, if TFDS does not give it.
    """
    self.features = builder.info.features
    self._source = builder.as_data_source(split=split)
    self._files = builder.info.splits[split].file_instructions

  def __len__(self) -> int:
    return len(self._source)

  def read(self, number: int, feature: str) -> Any:
    """One feature of an example, in NumPy.

    Raises:
      DamagedFileError: if it cannot be read.
    """
    try:
      value = self._source[number][feature]
    except Exception as error:  # the readers raise whatever they find
      raise self._damaged(number, _reason(error)) from None
    if value is None:  # of a file that ends between two of its blocks
      raise self._damaged(number, f"it has no example {number}")
    return value

  def _damaged(self, number: int, reason: str) -> DamagedFileError:
    return DamagedFileError(
      f"{self._file_of(number)} is damaged or cut short ({reason})"
    )

  def _file_of(self, number: int) -> str:
    for file in self._files:
      if number < file.take:
        return file.filename
      number -= file.take
    return self._files[-1].filename


def _reason(error: Exception) -> str:
  """The first thing that a reader says, without its details."""
  text = " ".join(str(error).split()) or type(error).__name__
  return text.split("; ")[0].split(" (computed")[0][:200]
