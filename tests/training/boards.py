"""Reads TensorBoard's files back by TensorBoard's rules."""

import pathlib
import struct
from collections.abc import Iterator

import pytest
from tensorboardX.proto import event_pb2

from calm_jax.json_files import read_rows


def read_board(directory: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
  """Steps and values by tag.

  Files come in the order of their names. Of an event that says a session began
  at a step, what was read before and has this step or a later one goes.
  """
  found: dict[str, list[tuple[int, float]]] = {}
  for path in sorted(directory.glob("*tfevents*")):
    for event in _events(path.read_bytes()):
      if event.session_log.status == event_pb2.SessionLog.START:
        for tag, values in found.items():
          found[tag] = [it for it in values if it[0] < event.step]
      for value in event.summary.value:
        pair = (event.step, value.simple_value)
        found.setdefault(value.tag, []).append(pair)
  return {tag: values for tag, values in found.items() if values}


def assert_same_rows(run: pathlib.Path) -> None:
  """TensorBoard shows what metrics.jsonl has."""
  expected = {}
  for row in read_rows(run / "metrics.jsonl"):
    for name, value in row.items():
      if name != "step" and value is not None:
        pair = (row["step"], pytest.approx(value, rel=1e-6))
        expected.setdefault(name, []).append(pair)
  assert read_board(run / "tensorboard") == expected


def _events(data: bytes) -> Iterator[event_pb2.Event]:
  """A record is its length, a checksum of that, content and checksum."""
  place = 0
  while place + 12 <= len(data):
    (length,) = struct.unpack_from("Q", data, place)
    content = data[place + 12 : place + 12 + length]
    if len(content) < length:
      return
    yield event_pb2.Event.FromString(content)
    place += length + 16
