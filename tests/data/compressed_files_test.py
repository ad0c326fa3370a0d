"""Files as real compressors write them: read, or called what they are."""

import gzip
import shutil
import subprocess

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from etils import epath

from calm_jax.data import source_files
from tests.data import texts

_TEXT = (texts.ENGLISH + "\n") * 3


def _read(path):
  return "".join(
    part.text for part in source_files.read_parts(epath.Path(path))
  )


def _zstd(*options):
  if shutil.which("zstd") is None:
    pytest.skip("no zstd program")

  def write(path):
    plain = path.with_suffix("")
    plain.write_text(_TEXT)
    subprocess.run(
      ["zstd", "-q", *options, str(plain), "-o", str(path)], check=True
    )
    plain.unlink()

  return write


def _frames(path):
  """Two frames, and one between them that readers pass over."""
  compress = zstandard.ZstdCompressor().compress
  half = len(_TEXT) // 2
  skipped = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little")
  path.write_bytes(
    compress(_TEXT[:half].encode())
    + skipped
    + b"abc"
    + compress(_TEXT[half:].encode())
  )


def _parquet(kind, **options):
  def write(path):
    column = pyarrow.array([_TEXT], kind)
    table = pyarrow.table({"text": column})
    pyarrow.parquet.write_table(table, path, **options)

  return write


def _gzip(path):
  path.write_bytes(gzip.compress(_TEXT.encode()))


def _two_gzips(path):
  half = len(_TEXT) // 2
  path.write_bytes(
    gzip.compress(_TEXT[:half].encode()) + gzip.compress(_TEXT[half:].encode())
  )


_READ = {
  "zstd": ("x.txt.zst", _zstd("-3")),
  "zstd, the longest window": ("x.txt.zst", _zstd("--long=31", "--ultra")),
  "zstd, a long window": ("x.txt.zst", _zstd("--long=28")),
  "zstd, as small as can be": ("x.txt.zst", _zstd("--ultra", "-22")),
  "zstd, without a checksum": ("x.txt.zst", _zstd("--no-check")),
  "zstd, several frames": ("x.txt.zst", _frames),
  "gzip": ("x.txt.gz", _gzip),
  "gzip, twice": ("x.txt.gz", _two_gzips),
  "Parquet": ("x.parquet", _parquet(pyarrow.string())),
  "Parquet, large strings": (
    "x.parquet",
    _parquet(pyarrow.large_string(), compression="zstd"),
  ),
  "Parquet, a dictionary": (
    "x.parquet",
    _parquet(pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
  ),
  "Parquet, views": ("x.parquet", _parquet(pyarrow.string_view())),
}


@pytest.mark.parametrize("case", _READ)
def test_a_file_is_read(case, tmp_path):
  name, write = _READ[case]
  write(tmp_path / name)
  assert _read(tmp_path / name) == _TEXT


def test_the_window_is_as_long_as_said(tmp_path):
  if shutil.which("zstd") is None:
    pytest.skip("no zstd program")
  # From a pipe, whose length is not known, the frame asks for all of it.
  data = subprocess.run(
    ["zstd", "-q", "--long=31", "--ultra", "-c"],
    input=_TEXT.encode(),
    capture_output=True,
    check=True,
  ).stdout
  assert zstandard.get_frame_parameters(data).window_size == 1 << 31
  (tmp_path / "x.txt.zst").write_bytes(data)
  assert _read(tmp_path / "x.txt.zst") == _TEXT


def _with_dictionary(path):
  samples = [f"{i} {_TEXT[i : i + 200]}".encode() for i in range(500)]
  dictionary = zstandard.train_dictionary(2000, samples)
  compressor = zstandard.ZstdCompressor(dict_data=dictionary)
  path.write_bytes(compressor.compress(_TEXT.encode()))


_NOT_READ = {
  "a dictionary": (
    "x.txt.zst",
    _with_dictionary,
    "was compressed with a dictionary",
  ),
  "gzip under zstd's name": ("x.txt.zst", _gzip, "is no zstd data"),
  "zstd under gzip's name": ("x.txt.gz", _frames, "is no gzip data"),
  "bytes for text": (
    "x.parquet",
    lambda path: pyarrow.parquet.write_table(
      pyarrow.table({"text": [b"abc"]}), path
    ),
    "'text' is of type bytes; a string was expected",
  ),
}


@pytest.mark.parametrize("case", _NOT_READ)
def test_what_cannot_be_read_is_not_called_damaged(case, tmp_path):
  name, write, message = _NOT_READ[case]
  write(tmp_path / name)
  with pytest.raises(ValueError, match=message) as caught:
    _read(tmp_path / name)
  assert "damaged" not in str(caught.value)
  assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x.txt.zst", "x.txt.gz"])
def test_what_is_damaged_is_called_so(name, tmp_path):
  write = {"x.txt.zst": _frames, "x.txt.gz": _gzip}[name]
  write(tmp_path / name)
  data = (tmp_path / name).read_bytes()
  (tmp_path / name).write_bytes(data[:-20])
  with pytest.raises(ValueError, match="is damaged or cut short"):
    _read(tmp_path / name)
