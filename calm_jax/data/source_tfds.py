"""Documents from any TFDS data set that has text."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow_datasets as tfds
from etils import epath

from calm_jax.data.source_files import Part, make_part


def read_parts(name: str) -> Iterator[Part]:
  """Reads a split of a TFDS data set, which is downloaded if need be.

  Args:
    name: NAME or NAME@SPLIT, the split being "train" by default. NAME is what
      `tfds.builder` takes, or a directory that holds a prepared data set.

  Yields:
    One part per example: its `text`, or its only text feature.

  Raises:
    ValueError: if TFDS does not give the data set or it has no text.
  """
  name, _, split = name.partition("@")
  try:
    source = _open(name, split or "train")
    feature = _text_feature(name, source.dataset_info.features)
    for number in range(len(source)):
      text = source[number][feature]
      yield make_part(text.decode(), f"tfds:{name}, example {number}")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"tfds:{name}, example {number}: the byte at {error.start} is not UTF-8."
    ) from None


def _open(name: str, split: str):
  try:
    if epath.Path(name).is_dir():
      builder = tfds.builder_from_directory(name)
    else:
      builder = tfds.builder(name, file_format="array_record")
      builder.download_and_prepare()
    return builder.as_data_source(split=split)
  # TFDS raises its own errors for an unknown name, ImportError where a data
  # set needs TensorFlow or Beam, and what the download raises.
  except Exception as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise ValueError(
      f"TFDS cannot give tfds:{name}, split {split!r}: {reason[0]} Name a data"
      " set or a directory of one that was prepared as array_record."
    ) from None


def _text_feature(name: str, features: tfds.features.FeaturesDict) -> str:
  texts = [
    key
    for key, feature in features.items()
    if isinstance(feature, tfds.features.Text)
  ]
  if "text" in texts:
    return "text"
  if len(texts) != 1:
    raise ValueError(
      f"tfds:{name} has the features {', '.join(features)}; one of them must"
      " be a text named 'text', or there must be one text only."
    )
  return texts[0]
