"""Other shapes in and out, and what is written down beside the weights."""

import json

import jax
import numpy as np
import pytest

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.config import (
  AutoencoderConfig,
  DataConfig,
  DiffusionHeadConfig,
  ExperimentConfig,
  FlowHeadConfig,
  NextVectorConfig,
  TokenModelConfig,
  VocabularyConfig,
)
from calm_jax.data.tokenizer import IdTokenizer
from calm_jax.interop import published_config
from calm_jax.interop.conversion import convert
from calm_jax.interop.export import export
from calm_jax.interop.recorded import read_recording
from calm_jax.interop.verification import verify
from calm_jax.interop.weights import Weights
from tests.interop import checkpoints
from tests.perturbation import perturb

_SHAPES = {
  "one token a chunk, deep autoencoder": (
    {"patch_size": 1, "num_encoder_layers": 4},
    {"kind": "energy", "dtype": "bfloat16"},
  ),
  "eight tokens a chunk, one key head": (
    {"patch_size": 8, "num_key_value_heads": 1, "num_mlp_layers": 3},
    {"kind": "energy", "num_shards": 2},
  ),
  "two tokens a chunk, odd sizes": (
    {"patch_size": 2, "vocab_size": 131, "latent_size": 9, "noise_size": 1},
    {"kind": "energy", "dtype": "float16"},
  ),
  "diffusion over eight tokens": (
    {"patch_size": 8, "num_hidden_layers": 1},
    {"kind": "diffusion", "num_shards": 3},
  ),
  "flow over one token": (
    {"patch_size": 1, "num_attention_heads": 2, "num_key_value_heads": 1},
    {"kind": "flow", "dtype": "bfloat16"},
  ),
}


def _tensors(directory):
  weights = Weights(directory)
  return {
    name: (weights.dtype(name), weights.read(name)) for name in weights.names
  }


def _assert_kept(source, back):
  """Every tensor of the first is in the second, bit for bit."""
  there, here = _tensors(source), _tensors(back)
  for name, (dtype, array) in there.items():
    assert here[name][0] == dtype, name
    assert here[name][1].shape == array.shape, name
    assert here[name][1].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("case", _SHAPES)
def test_other_shapes_compute_and_return(case, tmp_path):
  sizes, options = _SHAPES[case]
  options = dict(options)
  kind = options.pop("kind")
  models = {}
  for name in ("ae", kind):
    ae_sizes = {k: v for k, v in sizes.items() if "num_a" not in k}
    values = checkpoints.make_config(name, **ae_sizes | sizes)
    weights = checkpoints.make_weights(name, values, seed=len(name))
    dtype = options.get("dtype", "float32")
    models[name] = values, checkpoints.round_to(weights, dtype)
    checkpoints.write(tmp_path / name, *models[name], **options)
  np.savez(tmp_path / "io.npz", **checkpoints.record(models, num_chunks=3))
  convert(tmp_path / kind, tmp_path / "run")
  run = load_run(tmp_path / "run")
  verification = verify(run, read_recording(tmp_path / "io.npz"))
  verification.check()
  assert f"{kind}_hidden" in {each.name for each in verification.comparisons}
  assert run.config.autoencoder.num_encoder_layers == sizes.get(
    "num_encoder_layers", 2
  )

  export(tmp_path / "run", tmp_path / "back")
  _assert_kept(tmp_path / kind, tmp_path / "back")
  _assert_kept(tmp_path / "ae", tmp_path / "back" / "autoencoder")
  # Whoever loads the copy finds every tensor the authors' classes look for.
  names = set(Weights(tmp_path / "back").names)
  assert "ae_model.decoder.lm_head_weight" in names
  if kind == "energy":
    heads = {n for n in names if n.startswith("generative_head.")}
    twins = {n.replace("generative_head.", "mlp_generator.") for n in heads}
    assert heads and twins <= names


def test_way_back_from_fixtures_keeps_configs(tmp_path):
  for kind in ("energy", "flow"):
    source = checkpoints.FIXTURES / kind
    convert(source, tmp_path / kind)
    export(tmp_path / kind, tmp_path / f"{kind}-back")
    _assert_kept(source, tmp_path / f"{kind}-back")
    for path in ("config.json", "autoencoder/config.json"):
      there = (source / path).resolve()
      if path != "config.json":
        there = checkpoints.FIXTURES / "ae" / "config.json"
      here = tmp_path / f"{kind}-back" / path
      assert json.loads(here.read_text()) == json.loads(there.read_text())
    # A second round changes nothing any more.
    convert(tmp_path / f"{kind}-back", tmp_path / f"{kind}-again")
    first, again = (
      load_run(tmp_path / name) for name in (kind, f"{kind}-again")
    )
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)


def test_config_follows_the_authors():
  values = published_config.read_values(checkpoints.FIXTURES / "energy")
  model = published_config.to_model_config(values)
  assert model.vocabulary == VocabularyConfig(
    size=37, begin_id=1, end_id=2, mask_id=0, unscored_ids=()
  )
  assert (model.num_heads, model.num_kv_heads) == (6, 2)
  assert (model.head.noise_size, model.head.num_samples) == (3, 3)
  assert published_config.row_length(values, 2) == 2 * 64


def test_config_takes_the_first_of_several_end_ids():
  values = published_config.read_values(checkpoints.FIXTURES / "ar")
  values["eos_token_id"] = [5, 6]
  assert published_config.to_model_config(values).vocabulary.end_id == 5


@pytest.mark.parametrize("kind", checkpoints.ARCHITECTURES)
def test_our_config_is_read_back_as_it_was_written(kind):
  vocabulary = VocabularyConfig(size=131, begin_id=3, end_id=4, mask_id=0)
  backbone = {
    "vocabulary": vocabulary,
    "hidden_size": 24,
    "ffn_size": 40,
    "num_layers": 3,
    "num_heads": 6,
    "num_kv_heads": 3,
    "rope_theta": 5e5,
  }
  head = {"diffusion": DiffusionHeadConfig(), "flow": FlowHeadConfig()}
  models = {
    "ae": AutoencoderConfig(
      vocabulary=vocabulary, chunk_size=3, latent_size=7, kl_floor=0.25
    ),
    "ar": TokenModelConfig(**backbone),
  }
  model = models.get(kind) or NextVectorConfig(
    **backbone, chunk_size=3, latent_size=7
  )
  if kind in head:
    model.head = head[kind]
  config = ExperimentConfig(model=model, data=DataConfig(row_length=30))
  values = published_config.from_experiment(config, "somewhere")
  assert values["architectures"] == [checkpoints.ARCHITECTURES[kind]]
  assert published_config.to_model_config(values) == model
  assert published_config.row_length(values, model.chunk_size) == (
    30 if kind != "ae" else 3 * 2048
  )


def test_inputs_without_counterpart_are_refused():
  vocabulary = VocabularyConfig(size=131, begin_id=3, end_id=4)
  model = NextVectorConfig(
    vocabulary=vocabulary, latent_size=7, inputs="latent"
  )
  config = ExperimentConfig(model=model)
  with pytest.raises(ValueError, match="inputs 'latent' has no counterpart"):
    published_config.from_experiment(config, "")


def test_converted_run_is_a_run(tmp_path):
  """Random parameters of ours, not rounded, survive both ways as well."""
  convert(checkpoints.FIXTURES / "diffusion", tmp_path / "run")
  run = load_run(tmp_path / "run")
  assert isinstance(run.tokenizer, IdTokenizer)
  assert run.tokenizer.vocabulary.end_id == 2
  assert run.config.autoencoder.vocabulary == run.config.model.vocabulary
  assert run.step == 0
  # Rows of the padded vocabulary hold nothing.
  table = run.params["chunk_embed"]["embedding"]["embedding"]
  np.testing.assert_array_equal(table[37:], 0)
  assert np.abs(perturb(table)[:37]).max() > 0
