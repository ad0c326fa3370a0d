"""What goes wrong with files: one function a mishap."""

import gzip
import json
import shutil

import tensorflow_datasets as tfds

from tests.data import tfds_sets


def write(name, content):
  """A file with this content in the case's directory."""

  def act(directory):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)

  return act


def truncated_gzip(name):
  """Compressed text that ends too early."""
  lines = "".join(json.dumps({"text": f"line {i}"}) + "\n" for i in range(999))
  return write(name, gzip.compress(lines.encode())[:-200])


def cut_largest(pattern):
  """Cuts off the end of the largest file that matches."""

  def act(directory):
    files = [path for path in directory.glob(pattern) if path.is_file()]
    assert files, pattern
    path = max(files, key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

  return act


def replace(name, old, new):
  """Replaces text in a file."""

  def act(directory):
    text = (directory / name).read_text()
    assert old in text, (name, old)
    (directory / name).write_text(text.replace(old, new))

  return act


def remove(name):
  """Removes a directory or a file."""

  def act(directory):
    path = directory / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()

  return act


def move(name, target):
  return lambda directory: (directory / name).rename(directory / target)


def cut_tfds(name):
  """A data set of TFDS whose second file is cut short."""

  def act(directory):
    examples = [{"text": f"a text with the number {i}"} for i in range(4)]
    features = {"text": tfds.features.Text()}
    tfds_sets.write(directory / name, features, examples)
    file = directory / name / "small-train.array_record-00001"
    file.write_bytes(file.read_bytes()[:-100])

  return act
