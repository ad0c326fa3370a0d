"""Files of others with something changed in them, by seed.

Never a traceback, never a silent change: what is written goes back to the
source bit for bit, what gives other ids has another hash, or it is refused.
"""

import json
import random
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from etils import epath

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.data import source_files, tokenizer_sentencepiece
from calm_jax.data.tokenizer import load_tokenizer
from calm_jax.interop.conversion import convert
from calm_jax.interop.export import export
from calm_jax.interop.weights import Weights
from tests.data import texts
from tests.data.llama3_files import json_file
from tests.interop import checkpoints
from tests.interop.config_fields_test import LLAMA

_VALUES = (
  None,
  True,
  False,
  0,
  1,
  -1,
  2,
  3,
  0.5,
  1e-30,
  1e300,
  10**20,
  float("nan"),
  "",
  "1",
  "llama",
  [],
  [1],
  {},
  {"a": 1},
  {"rope_type": "default", "rope_theta": 5e5},
)
_NAMES = (
  "rope_theta",
  "rope_parameters",
  "rope_scaling",
  "head_dim",
  "sliding_window",
  "dropout",
  "padding",
  "special",
  "lstrip",
  "surprise",
)


def _mutate_json(rng, data):
  """One value deep in it is removed, replaced, renamed or added."""
  content = json.loads(data)
  place = content
  while True:
    keys = [*place] if isinstance(place, dict) else [*range(len(place))]
    inner = [key for key in keys if isinstance(place[key], dict | list)]
    inner = [key for key in inner if place[key]]
    if not inner or rng.random() < 0.4:
      break
    place = place[rng.choice(inner)]
  key = rng.choice(keys)
  value = rng.choice((*_VALUES, rng.choice(_VALUES), place[key]))
  kind = rng.choice(("remove", "replace", "replace", "rename", "add"))
  if kind == "replace":
    place[key] = value
  elif kind == "remove":
    del place[key]
  elif isinstance(place, list):
    place.insert(key, value)
  elif kind == "rename":
    place[rng.choice(_NAMES)] = place.pop(key)
  else:
    place[rng.choice(_NAMES)] = value
  return json.dumps(content).encode()


def _mutate_bytes(rng, data):
  """A few bytes are turned, cut out, doubled or cut off."""
  at, size = rng.randrange(len(data)), rng.choice((1, 1, 4, 50))
  kind = rng.choice(("turn", "turn", "cut out", "double", "cut off"))
  if kind == "turn":
    turned = bytes([data[at] ^ 1 << rng.randrange(8)])
    return data[:at] + turned + data[at + 1 :]
  if kind == "cut out":
    return data[:at] + data[at + size :]
  if kind == "double":
    return data[:at] + data[at : at + size] + data[at:]
  return data[:at]


def _refusal(call):
  """What it returns, or None after one line of refusal."""
  try:
    return call()
  except (ValueError, OSError) as error:
    assert str(error) and "\n" not in str(error), repr(error)
    return None


def _tensors(directory):
  weights = Weights(directory)
  return {
    name: (weights.dtype(name), weights.read(name).tobytes())
    for name in weights.names
    if not name.endswith("inv_freq")
  }


def _directory(directory):
  """A Llama with what any version writes beside its weights."""
  values = checkpoints.make_config("ar")
  weights = checkpoints.make_weights("ar", values)
  frequencies = np.array([1.0, 1e-2], np.float32)
  name = "model.layers.0.self_attn.rotary_emb.inv_freq"
  checkpoints.write(directory, values, weights | {name: frequencies})
  config = LLAMA["5.0.0"] | {"vocab_size": values["vocab_size"]}
  (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_weights_go_back_or_are_refused(seed, tmp_path):
  rng = random.Random(seed)
  source = tmp_path / "source"
  _directory(source)
  name = rng.choice(("config.json", "config.json", "model.safetensors"))
  path = source / name
  mutate = _mutate_bytes
  if name == "config.json" and rng.random() < 0.8:
    mutate = _mutate_json
  data = path.read_bytes()
  if name == "model.safetensors" and rng.random() < 0.6:
    length = 8 + int.from_bytes(data[:8], "little")  # of the header
    path.write_bytes(_mutate_bytes(rng, data[:length]) + data[length:])
  else:
    path.write_bytes(mutate(rng, data))
  _refusal(lambda: convert(source, tmp_path / "run"))
  if not (tmp_path / "run").exists():
    return
  export(tmp_path / "run", tmp_path / "back")
  there, back = _tensors(source), _tensors(tmp_path / "back")
  assert there == {name: back[name] for name in there}
  values, again = (
    json.loads((directory / "config.json").read_bytes())
    for directory in (source, tmp_path / "back")
  )
  assert again == values
  model = load_run(tmp_path / "run").config.model
  rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
  theta = rope.get("rope_theta", values.get("rope_theta"))
  assert model.rope_theta == (1e4 if theta is None else theta)
  assert model.norm_epsilon == values.get("rms_norm_eps", 1e-6)
  assert model.vocabulary.begin_id == values.get("bos_token_id", 1)


def _sentencepiece():
  return tokenizer_sentencepiece.train([texts.ENGLISH], 330)._model


_TOKENIZERS = {
  "tokenizer.json": json_file,
  "x.model": _sentencepiece,
}
_TEXTS = [texts.ENGLISH, "the the", "  a\n\nb é", "<|begin_of_text|>", "aaaa"]


@pytest.mark.extras
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_ids_are_those_of_the_hash_or_refused(seed, tmp_path):
  pytest.importorskip("tokenizers")
  rng = random.Random(seed)
  name = rng.choice(("tokenizer.json", "tokenizer.json", "x.model"))
  data = _TOKENIZERS[name]()
  base, path = tmp_path / f"base-{name}", tmp_path / name
  base.write_bytes(data)
  clean = load_tokenizer(base)
  is_json = name == "tokenizer.json" and rng.random() < 0.8
  path.write_bytes((_mutate_json if is_json else _mutate_bytes)(rng, data))
  tokenizer = _refusal(lambda: load_tokenizer(path))
  if tokenizer is None:
    return
  is_same = tokenizer.content_hash == clean.content_hash
  for text, expected in zip(_TEXTS, clean.encode_all(_TEXTS), strict=True):
    ids = _refusal(lambda text=text: tokenizer.encode(text))
    assert ids is not None or not is_same
    if ids is not None and is_same:
      np.testing.assert_array_equal(ids, expected)
    if ids is not None and tokenizer.is_exact:
      assert len(tokenizer.decode(ids)) == len(text)
  tokenizer.save(tmp_path / "saved")
  loaded = load_tokenizer(tmp_path / "saved")
  assert loaded.content_hash == tokenizer.content_hash


def _zstd(path):
  compressor = zstandard.ZstdCompressor(write_checksum=True)
  path.write_bytes(compressor.compress(texts.ENGLISH.encode()))


def _parquet(path):
  table = pyarrow.table({"text": texts.ENGLISH.split("\n")})
  pyarrow.parquet.write_table(table, path, write_page_checksum=True)


def _json_lines(path):
  path.write_text(json.dumps({"text": texts.ENGLISH}) + "\n")


_FILES = {"x.txt.zst": _zstd, "x.parquet": _parquet, "x.jsonl": _json_lines}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_text_files_are_read_or_refused(seed, tmp_path):
  rng = random.Random(seed)
  name = rng.choice([*_FILES])
  path = tmp_path / name
  _FILES[name](path)
  path.write_bytes(_mutate_bytes(rng, path.read_bytes()))
  parts = _refusal(lambda: [*source_files.read_parts(epath.Path(path))])
  if parts is not None and name == "x.txt.zst":
    found = "".join(part.text for part in parts)
    assert found in ("", texts.ENGLISH)
  shutil.rmtree(tmp_path)
