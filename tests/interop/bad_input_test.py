"""Every mistake is one line, and leaves the target as it was."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from calm_jax.interop import conversion
from calm_jax.interop.conversion import convert
from calm_jax.interop.export import export
from tests.interop import checkpoints


@pytest.fixture
def source(tmp_path):
  """A CALM and the autoencoder that its ae_path names."""
  for kind in ("ae", "energy"):
    shutil.copytree(checkpoints.FIXTURES / kind, tmp_path / kind)
  return tmp_path / "energy"


def _edit_weights(directory, change):
  path = directory / "model.safetensors"
  weights = load_file(path)
  change(weights)
  save_file(weights, path)


def _edit_config(directory, **values):
  path = directory / "config.json"
  content = json.loads(path.read_text()) | values
  content = {k: v for k, v in content.items() if v != "removed"}
  path.write_text(json.dumps(content))


def _add(name, like):
  return lambda w: w.__setitem__(name, w[like] + 1)


_HEAD = "mlp_generator.norm_noise.weight"
_CASES = {
  "a missing tensor": (
    lambda s: _edit_weights(s, lambda w: w.pop("embed_proj.3.bias")),
    r"tensor embed_proj\.3\.bias is missing .* shape \(24,\)",
  ),
  "a tensor missing under both of its names": (
    lambda s: _edit_weights(s, lambda w: w.pop(_HEAD)),
    r"tensor generative_head\.norm_noise\.weight or mlp_generator\.norm_noise",
  ),
  "an extra tensor": (
    lambda s: _edit_weights(s, _add("surprise", "embed_proj.3.bias")),
    r"tensor surprise \(24,\) .* belongs to no part .*\(1 such",
  ),
  "a misshapen tensor": (
    lambda s: _edit_weights(
      s, lambda w: w.update({"embed_proj.3.bias": w["embed_proj.3.bias"][:-1]})
    ),
    r"embed_proj\.3\.bias .* has shape \(23,\), and \(24,\) was expected",
  ),
  "a tensor stored twice with two contents": (
    lambda s: _edit_weights(
      s, _add("generative_head.norm_noise.weight", _HEAD)
    ),
    r"generative_head\.norm_noise\.weight and mlp_generator.*, and differ",
  ),
  "more layers than there are": (
    lambda s: _edit_config(s, num_hidden_layers=3),
    r"transformer\.layers\.2\..* is missing",
  ),
  "fewer layers than there are": (
    lambda s: _edit_config(s, num_hidden_layers=1),
    r"transformer\.layers\.1\..* belongs to no part",
  ),
  "an unknown architecture": (
    lambda s: _edit_config(s, architectures=["GPT2LMHeadModel"]),
    r"architectures \['GPT2LMHeadModel'\]; one of Autoencoder, Energy",
  ),
  "no architecture": (
    lambda s: _edit_config(s, architectures="removed"),
    "architectures None; one of",
  ),
  "a size that is missing": (
    lambda s: _edit_config(s, patch_size="removed"),
    "has no patch_size",
  ),
  "a size that is a word": (
    lambda s: _edit_config(s, hidden_size="24"),
    "hidden_size '24'; it should be of type int",
  ),
  "another activation": (
    lambda s: _edit_config(s, hidden_act="gelu"),
    "hidden_act 'gelu'; only 'silu'",
  ),
  "scaled rotary positions": (
    lambda s: _edit_config(s, rope_scaling={"factor": 8.0}),
    "rope_scaling",
  ),
  "heads that do not divide the width": (
    lambda s: _edit_config(s, num_attention_heads=5),
    "hidden_size 24 is not a multiple of num_heads 5",
  ),
  "another latent size than the autoencoder's": (
    lambda s: _edit_config(s, latent_size=6),
    "latent_size 6 and its autoencoder 5",
  ),
  "another chunk size than the autoencoder's": (
    lambda s: _edit_config(s.parent / "ae", patch_size=4),
    "chunk_size 2 and its autoencoder 4",
  ),
  "an ae_path to another kind": (
    lambda s: _edit_config(s, ae_path="."),
    "ae_model tensors, and its ae_path '.' is no directory",
  ),
  "no autoencoder at all": (
    lambda s: shutil.rmtree(s.parent / "ae"),
    r"no ae_model tensors, and its ae_path '\.\./ae' is no directory here",
  ),
  "an autoencoder that lacks a tensor": (
    lambda s: _edit_weights(
      s.parent / "ae", lambda w: w.pop("decoder.norm.weight")
    ),
    r"tensor decoder\.norm\.weight is missing",
  ),
  "a config that is no JSON": (
    lambda s: (s / "config.json").write_text("{"),
    "config.json is not a JSON file",
  ),
  "a config that is a list": (
    lambda s: (s / "config.json").write_text("[]"),
    "is no JSON object",
  ),
  "no config": (lambda s: (s / "config.json").unlink(), "has no config.json"),
  "no weights": (
    lambda s: (s / "model.safetensors").unlink(),
    "holds no weights",
  ),
  "truncated weights": (
    lambda s: (s / "model.safetensors").write_bytes(
      (s / "model.safetensors").read_bytes()[:-100]
    ),
    "is truncated or altered",
  ),
  "a number that is none": (
    lambda s: _edit_weights(
      s,
      lambda w: w.update(
        {"embed_proj.3.bias": w["embed_proj.3.bias"] + np.nan}
      ),
    ),
    r"embed_proj\.3\.bias .* infinite or undefined",
  ),
}


@pytest.mark.parametrize("case", _CASES)
def test_bad_source_is_one_line_and_nothing_is_written(case, source, tmp_path):
  damage, message = _CASES[case]
  damage(source)
  before = sorted(path.name for path in tmp_path.iterdir())
  with pytest.raises((ValueError, OSError), match=message) as caught:
    convert(source, tmp_path / "run")
  assert "\n" not in str(caught.value)
  assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_target_with_content_is_left_alone(source, tmp_path):
  target = tmp_path / "run"
  target.mkdir()
  (target / "mine").write_text("kept")
  for write in (convert, export):
    with pytest.raises(ValueError, match="is not an empty directory"):
      write(source, target)
  assert [path.name for path in target.iterdir()] == ["mine"]
  with pytest.raises(ValueError, match="is not an empty directory"):
    convert(source, target / "mine")


def test_an_interrupt_leaves_nothing(source, tmp_path, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(conversion, "write_origin", interrupt)
  target = tmp_path / "deep" / "run"
  with pytest.raises(KeyboardInterrupt):
    convert(source, target)
  assert not (tmp_path / "deep").exists()


def test_tokenizers_must_fit(source, tmp_path):
  with pytest.raises(ValueError, match="size 258, and the checkpoint 37"):
    from calm_jax.data.tokenizer import ByteTokenizer

    ByteTokenizer().save(tmp_path / "tokenizer")
    convert(source, tmp_path / "run", tokenizer=tmp_path / "tokenizer")
  assert not (tmp_path / "run").exists()


def test_a_named_autoencoder_must_be_one(source, tmp_path):
  with pytest.raises(FileNotFoundError, match="has no config"):
    convert(source, tmp_path / "run", autoencoder=tmp_path / "nowhere")
  with pytest.raises(ValueError, match="holds LlamaForCausalLM"):
    convert(source, tmp_path / "run", autoencoder=checkpoints.FIXTURES / "ar")


def test_a_run_that_is_none_cannot_be_written_back(source, tmp_path):
  with pytest.raises(ValueError, match="format_version None"):
    export(source, tmp_path / "back")
  with pytest.raises(FileNotFoundError, match="there is no directory"):
    export(tmp_path / "nowhere", tmp_path / "back")
  convert(source, tmp_path / "run")
  with pytest.raises(FileNotFoundError, match="step 7 is not in"):
    export(tmp_path / "run", tmp_path / "back", step=7)
  (tmp_path / "run" / "origin.json").write_text("{}")
  with pytest.raises(ValueError, match="is damaged"):
    export(tmp_path / "run", tmp_path / "back")
  assert not (tmp_path / "back").exists()


def test_damaged_parameters_cannot_be_written_back(source, tmp_path):
  convert(source, tmp_path / "run")
  params = tmp_path / "run" / "steps" / "0" / "params"
  for path in (params / "ocdbt.process_0" / "d").iterdir():
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  for path in (params / "d").iterdir():
    path.write_bytes(b"")
  with pytest.raises(ValueError, match="cannot be read") as caught:
    export(tmp_path / "run", tmp_path / "back")
  assert "\n" not in str(caught.value)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    "ae",
    "energy",
    "run",
  ]
