"""Documents from any TFDS data set that has text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from calm_jax.data.source_files import Part, make_part
from calm_jax.data.tfds_examples import DamagedFileError, Examples


def read_parts(name: str) -> Iterator[Part]:
  """Reads a split of a TFDS data set, which is downloaded if need be.

  Args:
    name: NAME or NAME@SPLIT, the split being "train" by default. NAME is what
      `tfds.builder` takes, or a directory that holds a prepared data set.

  Yields:
    One part per example: its `text`, or its only text feature.

  Raises:
    ValueError: if TFDS does not give the data set, it has no text, or a file
      of it is damaged.
  """
  name, _, split = name.partition("@")
  examples = _open(name, split or "train")
  feature = _text_feature(name, examples.features)
  for number in range(len(examples)):
    place = f"tfds:{name}, example {number}"
    try:
      text = examples.read(number, feature).decode()
    except DamagedFileError as error:
      raise ValueError(f"{place}: {error}; prepare it again.") from None
    except UnicodeDecodeError as error:
      raise ValueError(
        f"{place}: the byte 0x{error.object[error.start]:02X} at {error.start}"
        " is not UTF-8."
      ) from None
    yield make_part(text, place)


def _open(name: str, split: str) -> Examples:
  try:
    if epath.Path(name).is_dir():
      builder = tfds.builder_from_directory(name)
    else:
      builder = tfds.builder(name, file_format="array_record")
      builder.download_and_prepare()
    return Examples(builder, split)
  # TFDS raises its own errors for an unknown name, ImportError where a data
  # set needs TensorFlow or Beam, and what the download raises.
  except Exception as error:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise ValueError(
      f"TFDS cannot give tfds:{name}, split {split!r}: {reason[0]} Name a data"
      " set or a directory of one that was prepared as array_record."
    ) from None


def _text_feature(name: str, features: tfds.features.FeaturesDict) -> str:
  texts = [key for key, feature in features.items() if _is_text(feature)]
  if "text" in texts:
    return "text"
  if len(texts) != 1:
    raise ValueError(
      f"tfds:{name} has the features {', '.join(features)}; one of them must"
      " be a text named 'text', or there must be one text only."
    )
  return texts[0]


def _is_text(feature: tfds.features.FeatureConnector) -> bool:
  """Whether it is one string, as a Text or as a scalar."""
  if isinstance(feature, tfds.features.Text):
    return True
  return (
    isinstance(feature, tfds.features.Tensor)  # a Scalar is one, too
    and feature.shape == ()
    and feature.np_dtype in (np.object_, np.str_, np.bytes_)
  )
