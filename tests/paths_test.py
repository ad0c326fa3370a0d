"""Tests calm_jax/paths.py, and what is kept in a bucket."""

import os
import sys
from unittest import mock

import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from calm_jax import paths
from calm_jax.checkpoint import steps
from calm_jax.checkpoint.run_directory import RunDirectory
from calm_jax.data.sources import list_inputs
from calm_jax.data.store import TokenStore
from calm_jax.data.tokenizer import load_tokenizer
from calm_jax.data.tokenizer_bytes import ByteTokenizer
from calm_jax.evaluation.result_rows import ResultRows
from calm_jax.json_files import read_rows
from calm_jax.training.metrics import MetricsWriter
from tests.training import tiny


class _Bucket(MemoryFileSystem):
  """As gcsfs: appending overwrites, and only files make a directory."""

  protocol = ("gcs", "gs")
  store = {}  # noqa: RUF012, as fsspec has it

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(path.removeprefix("gs://"))

  def _open(self, path, mode="rb", **others):
    return super()._open(path, mode=mode.replace("a", "w"), **others)

  def mkdir(self, path, **others):
    pass

  makedirs = mkdir


@pytest.fixture
def bucket(monkeypatch):
  opened = backend.fsspec_backend._get_filesystem
  opened.cache_clear()
  for name in _Bucket.protocol:
    monkeypatch.setitem(_registry, name, _Bucket)
  yield epath.Path("gs://bucket")
  opened.cache_clear()
  _Bucket.store.clear()


@pytest.mark.parametrize("path", ["foo://x/y", "http://host/x.jsonl"])
def test_addresses_without_a_way_to_them_are_named(path):
  for call in (
    paths.absolute,
    TokenStore,
    load_tokenizer,
    list_inputs,
  ):
    with pytest.raises(ValueError, match=f"{path} cannot be opened: "):
      call(path)


def test_what_fails_leaves_no_empty_directories(tmp_path):
  def write():
    with paths.directory_written_whole(tmp_path / "a" / "b" / "c") as beside:
      (beside / "file").touch()
      raise RuntimeError

  (tmp_path / "a").mkdir()
  with pytest.raises(RuntimeError):
    write()
  assert (tmp_path / "a").exists() and not (tmp_path / "a" / "b").exists()


def test_a_run_in_a_bucket_is_there_and_nowhere_else(
  bucket, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  run = RunDirectory("gs://bucket/run")
  assert str(run.steps) == "gs://bucket/run/steps"
  config = tiny.experiment("token")
  run.create(config, ByteTokenizer(), None)
  assert (bucket / "run" / "config.json").exists()
  assert RunDirectory(bucket / "run").read_config() == config
  assert not any(tmp_path.iterdir())


def test_a_path_on_a_disk_starts_at_its_root(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert paths.absolute("~/run") == tmp_path / "run"
  assert os.fspath(paths.absolute("run")) == os.path.abspath("run")


def test_a_bucket_that_nothing_reads_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "gcsfs", None)
  with pytest.raises(ValueError, match=r"gs://b/run cannot .* install gcsfs"):
    RunDirectory("gs://b/run")
  with pytest.raises(ValueError, match="nobucket://run cannot be opened"):
    RunDirectory("nobucket://run")


def test_rows_in_a_bucket_are_added_to_those_before(bucket):
  path = bucket / "rows.jsonl"
  for step in (1, 2):
    ResultRows(path).append({"step": step, "settings": {}})
  assert ResultRows("gs://bucket/rows.jsonl").steps == {1, 2}
  paths.append(path, "end")
  assert path.read_text().splitlines()[2:] == ["end"]


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_file_grows_and_is_not_sent_for_every_line(
  place, bucket, tmp_path, monkeypatch
):
  path = (epath.Path(tmp_path) if place == "disk" else bucket) / "file"
  path.write_text("0\n")
  sent = []
  write_text = type(path).write_text
  monkeypatch.setattr(
    type(path), "write_text", lambda *a: sent.append(1) or write_text(*a)
  )
  file = paths.GrowingFile(path)
  for i in range(1, 100):
    file.append(f"{i}\n")
  file.flush()
  file.flush()
  assert path.read_text() == "".join(f"{i}\n" for i in range(100))
  assert len(sent) == (0 if place == "disk" else 2)  # the first, and the rest


def test_rows_of_a_live_run_reach_a_bucket_before_its_checkpoint(
  bucket, monkeypatch
):
  board = lambda *a, **k: mock.Mock()  # it sends by itself, over the network
  monkeypatch.setattr("calm_jax.training.metrics.EventFile", board)
  writer = MetricsWriter(bucket / "run", start_step=0, is_active=True)
  for step in (1, 2, 3):
    writer.write(step, {"loss": 0.5})
  assert len(read_rows(bucket / "run" / "metrics.jsonl")) == 1
  writer.flush()
  assert len(read_rows(bucket / "run" / "metrics.jsonl")) == 3


@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_file_is_written_whole_or_not_at_all(place, bucket, tmp_path):
  path = (epath.Path(tmp_path) if place == "disk" else bucket / "a") / "file"
  paths.write_whole(path, "first")
  paths.write_whole(path, "second")
  with pytest.raises(KeyboardInterrupt), paths.written_whole(path) as beside:
    beside.write_text("half of")
    raise KeyboardInterrupt
  assert path.read_text() == "second"
  paths.check_writable(path)
  assert [it.name for it in path.parent.iterdir()] == ["file"]


def test_a_directory_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / "a" / "directory"
  with (
    pytest.raises(KeyboardInterrupt),
    paths.directory_written_whole(path) as beside,
  ):
    (beside / "file").write_text("half")
    raise KeyboardInterrupt
  assert not any(tmp_path.iterdir())
  path.mkdir(parents=True)
  with paths.directory_written_whole(path) as beside:
    (beside / "file").write_text("whole")
    assert not any(path.iterdir())
  assert (path / "file").read_text() == "whole"
  with (
    pytest.raises(OSError, match="not empty"),
    paths.directory_written_whole(path) as beside,
  ):
    (beside / "file").write_text("other")
  assert (path / "file").read_text() == "whole"
  assert [it.name for it in path.parent.iterdir()] == ["directory"]


def test_an_error_of_the_disk_is_the_one_that_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"absent/\.file\.unf"):
    paths.write_whole(tmp_path / "absent" / "file", "text")
  (tmp_path / "file").mkdir()
  with pytest.raises(OSError, match="directory"):
    paths.write_whole(tmp_path / "file", "text")
  assert [it.name for it in tmp_path.iterdir()] == ["file"]


def test_damaged_steps_in_a_bucket_are_set_aside(bucket):
  for step in ("3", "6"):
    (bucket / "steps" / step / "params").write_text(step)
  steps.set_aside(bucket / "steps", [6])
  (bucket / "steps" / "6" / "params").write_text("again")
  steps.set_aside(bucket / "steps", [6])
  assert (bucket / "damaged" / "6" / "params").read_text() == "again"
  assert [path.name for path in (bucket / "steps").iterdir()] == ["3"]


def test_no_listing_of_a_bucket_is_remembered(bucket):
  assert backend.fsspec_backend.fs(str(bucket)).storage_options == {
    "finalize_on_close": True,
    "use_listings_cache": False,
  }
