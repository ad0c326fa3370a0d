"""What config.json files hold, as libraries write them, and what becomes of it.

`LLAMA` has what transformers' LlamaConfig.save_pretrained writes, in the
versions named; `_CALM` and `_AUTOENCODER` what the authors' classes write.
"""

import json
import shutil

import numpy as np
import pytest

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.interop import published_config
from calm_jax.interop.conversion import convert
from calm_jax.interop.export import export
from calm_jax.interop.recorded import read_recording
from calm_jax.interop.verification import verify
from tests.interop import checkpoints
from tests.interop.convert_binary_test import run_convert

_SIZES = {
  "hidden_size": 24,
  "intermediate_size": 33,
  "max_position_embeddings": 2048,
  "num_attention_heads": 6,
  "num_hidden_layers": 2,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-6,
  "vocab_size": 37,
}
_COMMON = {
  **_SIZES,
  "attention_bias": False,
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "initializer_range": 0.02,
  "pretraining_tp": 1,
  "tie_word_embeddings": False,
  "use_cache": True,
}
_LLAMA = {
  **_COMMON,
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
}
_OLD_ROPE = {"rope_scaling": None, "rope_theta": 10000.0}
_HEADS = {"head_dim": 4, "mlp_bias": False}
LLAMA = {
  "4.40.2": {**_LLAMA, **_OLD_ROPE, "transformers_version": "4.40.2"},
  "4.46.3": {
    **_LLAMA,
    **_OLD_ROPE,
    **_HEADS,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.3",
  },
  "4.57.1": {
    **_LLAMA,
    **_OLD_ROPE,
    **_HEADS,
    "dtype": "bfloat16",
    "transformers_version": "4.57.1",
  },
  "5.0.0": {
    **_LLAMA,
    **_HEADS,
    "dtype": "bfloat16",
    "pad_token_id": None,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "transformers_version": "5.0.0",
  },
}
_CALM = {
  **_COMMON,
  **_OLD_ROPE,
  "ae_path": "../ae",
  "architectures": ["EnergyTransformer"],
  "beta": 1.0,
  "latent_size": 5,
  "mlp_bias": False,
  "noise_size": 3,
  "num_mlp_layers": 1,
  "num_samples": 3,
  "pad_token_id": 2,
  "patch_size": 2,
  "torch_dtype": "float32",
  "transformers_version": "4.43.0",
}
_AUTOENCODER = {
  "ae_dropout": 0.15,
  "architectures": ["Autoencoder"],
  "bos_token_id": 1,
  "eos_token_id": 2,
  "hidden_act": "silu",
  "hidden_size": 18,
  "initializer_range": 0.02,
  "intermediate_size": 21,
  "kl_clamp": 0.5,
  "kl_weight": 0.001,
  "latent_size": 5,
  "max_position_embeddings": 2048,
  "mlp_bias": False,
  "num_decoder_layers": 2,
  "num_encoder_layers": 2,
  "pad_token_id": 2,
  "patch_size": 2,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-6,
  "tie_word_embeddings": False,
  "torch_dtype": "float32",
  "transformers_version": "4.43.0",
  "vocab_size": 37,
}
_GONE = object()


def _but(values, **changes):
  merged = values | changes
  return {name: value for name, value in merged.items() if value is not _GONE}


def _new(**rope):
  return _but(LLAMA["5.0.0"], rope_parameters=rope)


def _old(**changes):
  return _but(LLAMA["4.46.3"], **changes)


_BIG = {"rope_theta": 500000.0}
_LLAMA3 = {
  "factor": 8.0,
  "high_freq_factor": 4.0,
  "low_freq_factor": 1.0,
  "original_max_position_embeddings": 8192,
  "rope_type": "llama3",
}

# Each with the values that are read.
_READ = {
  "4.40.2": (LLAMA["4.40.2"], {"rope_theta": 1e4, "num_kv_heads": 2}),
  "4.46.3": (LLAMA["4.46.3"], {"rope_theta": 1e4, "head_size": 4}),
  "4.57.1": (LLAMA["4.57.1"], {"rope_theta": 1e4, "num_layers": 2}),
  "5.0.0": (LLAMA["5.0.0"], {"rope_theta": 1e4, "hidden_size": 24}),
  "4.46.3, Llama 3": (_old(**_BIG), {"rope_theta": 5e5}),
  "5.0.0, Llama 3": (_new(rope_type="default", **_BIG), {"rope_theta": 5e5}),
  "rope_parameters without a type": (_new(**_BIG), {"rope_theta": 5e5}),
  "an integer theta": (_new(rope_theta=500000), {"rope_theta": 5e5}),
  "rope_parameters without theta": (
    _new(rope_type="default"),
    {"rope_theta": 1e4},
  ),
  "no theta at all": (
    _but(LLAMA["5.0.0"], rope_parameters=_GONE),
    {"rope_theta": 1e4},
  ),
  "4.46.3, rope_scaling that does nothing": (
    _old(rope_scaling={"rope_type": "default"}, **_BIG),
    {"rope_theta": 5e5},
  ),
  "the older name of the type": (
    _old(rope_scaling={"type": "default", "factor": 1.0}),
    {"rope_theta": 1e4},
  ),
  "the same theta in two places": (
    _but(_new(rope_type="default", **_BIG), **_BIG),
    {"rope_theta": 5e5},
  ),
  "a factor of 1 of the rotated width": (
    _old(partial_rotary_factor=1.0),
    {"head_size": 4},
  ),
  "4.46.3, head_dim that says nothing": (_old(head_dim=None), {"head_size": 4}),
  "no num_key_value_heads": (
    _old(num_key_value_heads=_GONE),
    {"num_kv_heads": None},
  ),
  "num_key_value_heads null": (
    _old(num_key_value_heads=None),
    {"num_kv_heads": None},
  ),
  "two names of one dtype": (
    _old(dtype="bfloat16"),
    {"num_heads": 6},
  ),
  "several ids that end a text": (
    _old(bos_token_id=4, eos_token_id=[5, 6]),
    {"begin_id": 4, "end_id": 5},
  ),
  "4.46.3, labels and settings of generation": (
    _old(
      id2label={"0": "LABEL_0"},
      label2id={"LABEL_0": 0},
      temperature=0.5,
      max_length=99,
    ),
    {"end_id": 2},
  ),
  "no sliding window": (_old(sliding_window=None), {"num_layers": 2}),
  "all layers alike": (
    _old(layer_types=["full_attention"] * 2),
    {"num_layers": 2},
  ),
  "code of the same class": (
    _old(auto_map={"AutoModelForCausalLM": "modeling.LlamaForCausalLM"}),
    {"num_layers": 2},
  ),
  "where it was loaded from": (
    _old(_name_or_path="x/y", _attn_implementation_autoset=True),
    {"num_layers": 2},
  ),
  "another epsilon": (_old(rms_norm_eps=1e-5), {"norm_epsilon": 1e-5}),
  "fields of the authors' other classes": (
    _old(patch_size=2, kl_weight=0.1),
    {"chunk_size": 1},
  ),
  "energy": (_CALM, {"alpha": 1.0, "noise_size": 3, "latent_size": 5}),
  "energy, named": (_but(_CALM, model_type="energy"), {"num_samples": 3}),
  "energy, another beta": (_but(_CALM, beta=1.5), {"alpha": 1.5}),
  "energy, 5.0.0": (
    _but(
      _CALM,
      rope_theta=_GONE,
      rope_scaling=_GONE,
      rope_parameters={"rope_type": "default", **_BIG},
    ),
    {"rope_theta": 5e5, "alpha": 1.0},
  ),
  "diffusion": (
    _but(_CALM, architectures=["DiffusionTransformer"]),
    {"num_mlp_layers": 1},
  ),
  "flow": (
    _but(_CALM, architectures=["FlowTransformer"], model_type="flow"),
    {"num_mlp_layers": 1},
  ),
  "autoencoder": (
    _AUTOENCODER,
    {"token_mask_rate": 0.15, "kl_floor": 0.5, "chunk_size": 2},
  ),
  "autoencoder, tied as it always is": (
    _but(_AUTOENCODER, tie_word_embeddings=True),
    {"hidden_size": 18},
  ),
  "autoencoder, another clamp": (
    _but(_AUTOENCODER, kl_clamp=0.25),
    {"kl_floor": 0.25},
  ),
}

# Each with its line.
_REFUSED = {
  "4.40.2, which kept what 5.0.0 wrote and set its own theta": (
    _but(LLAMA["4.40.2"], rope_parameters={"rope_type": "default", **_BIG}),
    "rope_theta 10000.0 and rope_parameters.rope_theta 500000.0, which"
    " contradict",
  ),
  "4.46.3, linear": (
    _old(rope_scaling={"factor": 2.0, "rope_type": "linear", "type": "linear"}),
    "rope_scaling of type 'linear'",
  ),
  "4.40.2, dynamic": (
    _but(LLAMA["4.40.2"], rope_scaling={"factor": 2.0, "type": "dynamic"}),
    "rope_scaling of type 'dynamic'",
  ),
  "4.46.3, Llama 3.1": (
    _old(rope_scaling=_LLAMA3),
    "rope_scaling of type 'llama3'",
  ),
  "5.0.0, Llama 3.1": (
    _new(**_LLAMA3, **_BIG),
    "rope_parameters of type 'llama3'; only 'default'",
  ),
  "5.0.0, yarn": (_new(rope_type="yarn", factor=2.0), "of type 'yarn'"),
  "4.46.3, a factor without a type that uses it": (
    _old(rope_scaling={"factor": 8.0, "rope_type": "default"}),
    "rope_scaling with 'factor' 8.0",
  ),
  "5.0.0, a part of the width": (
    _new(partial_rotary_factor=0.5, rope_type="default"),
    "rope_parameters with 'partial_rotary_factor' 0.5",
  ),
  "a part of the width": (
    _old(partial_rotary_factor=0.5),
    "partial_rotary_factor 0.5; only 1.0",
  ),
  "positions by kind of layer": (
    _new(full_attention={"rope_type": "default", **_BIG}),
    "rope_parameters with 'full_attention'",
  ),
  "rope_scaling that is a word": (
    _old(rope_scaling="linear"),
    "rope_scaling 'linear'; an object",
  ),
  "theta that is a word": (_new(rope_theta="5e5"), "rope_theta '5e5'"),
  "theta 0": (_old(rope_theta=0.0), "rope_theta 0.0; it should be above 0"),
  "theta that is no number": (
    _old(rope_theta=float("nan")),
    "rope_theta nan; it should be above 0",
  ),
  "4.46.3, wider heads": (
    _old(head_dim=8),
    "head_dim 8, num_attention_heads 6 and hidden_size 24",
  ),
  "4.46.3, biases of attention": (
    _old(attention_bias=True),
    "attention_bias True; only False",
  ),
  "4.46.3, biases of the MLP": (_old(mlp_bias=True), "mlp_bias True; only"),
  "4.46.3, another activation": (
    _old(hidden_act="gelu"),
    "hidden_act 'gelu'; only 'silu'",
  ),
  "4.46.3, dropout": (
    _old(attention_dropout=0.1),
    "attention_dropout 0.1; only 0.0",
  ),
  "4.46.3, a sliding window": (
    _old(sliding_window=128),
    "sliding_window 128; only None",
  ),
  "windows in some layers": (
    _old(layer_types=["sliding_attention", "full_attention"]),
    "layer_types ['sliding_attention', 'full_attention']; only",
  ),
  "4.46.3, tied": (
    _old(tie_word_embeddings=True),
    "tie_word_embeddings True; only False",
  ),
  "4.46.3, no id that begins a text": (
    _old(bos_token_id=None),
    "bos_token_id None; it should be of type int",
  ),
  "no id that ends a text": (
    _old(eos_token_id=[]),
    "eos_token_id []; it should be of type int",
  ),
  "8-bit weights": (
    _old(quantization_config={"quant_method": "fp8"}),
    "quantization_config {'quant_method': 'fp8'}; only None",
  ),
  "an 8-bit dtype": (
    _old(torch_dtype="float8_e4m3fn"),
    "the dtype 'float8_e4m3fn'; only float32, float16 and bfloat16",
  ),
  "two dtypes": (
    _old(dtype="float32"),
    "dtype 'float32' and torch_dtype 'bfloat16', which contradict",
  ),
  "heads that were cut off": (
    _old(pruned_heads={"0": [1]}),
    "pruned_heads {'0': [1]}; only {}",
  ),
  "another model in the clothes of Llama": (
    _old(model_type="mistral"),
    "model_type 'mistral'; only 'llama'",
  ),
  "code of another class": (
    _old(auto_map={"AutoModelForCausalLM": "modeling.MyForCausalLM"}),
    "auto_map 'modeling.MyForCausalLM', and architectures LlamaForCausalLM",
  ),
  "a field of some fork": (
    _old(qk_norm=True),
    "has 'qk_norm' True, a field this package does not know (1 such)",
  ),
  "a name with another case": (
    _old(Rope_Theta=5e5),
    "has 'Rope_Theta' 500000.0, a field this package does not know",
  ),
  "an epsilon that says nothing": (
    _old(rms_norm_eps=None),
    "rms_norm_eps None; it should be of type float",
  ),
  "a width that is true": (_old(hidden_size=True), "hidden_size True"),
  "a width beyond all memory": (
    _old(vocab_size=10**12),
    "vocab_size 1000000000000; no number between",
  ),
  "a number that no float holds": (
    _old(rope_theta=10**400),
    "rope_theta 1000",
  ),
  "two architectures": (
    _old(architectures=["LlamaForCausalLM", "Autoencoder"]),
    "architectures ['LlamaForCausalLM', 'Autoencoder']; one of",
  ),
  "an architecture in a list": (
    _old(architectures=[["LlamaForCausalLM"]]),
    "architectures [['LlamaForCausalLM']]; one of",
  ),
  "another architecture": (
    _old(architectures=["MistralForCausalLM"]),
    "architectures ['MistralForCausalLM']; one of",
  ),
  "energy, named flow": (
    _but(_CALM, model_type="flow"),
    "model_type 'flow'; only 'energy'",
  ),
  "energy, scaled positions": (
    _but(_CALM, rope_scaling={"type": "linear", "factor": 2.0}),
    "rope_scaling of type 'linear'",
  ),
  "autoencoder, biases": (
    _but(_AUTOENCODER, mlp_bias=True),
    "mlp_bias True; only False",
  ),
  "autoencoder, a number that is none": (
    _but(_AUTOENCODER, kl_weight=float("inf")),
    "kl_weight inf; no number between",
  ),
}


@pytest.mark.parametrize("case", _READ)
def test_a_config_is_read_with_its_values(case, tmp_path):
  values, expected = _READ[case]
  (tmp_path / "config.json").write_text(json.dumps(values))
  model = published_config.to_model_config(
    published_config.read_values(tmp_path)
  )
  parts = [model, model.vocabulary, getattr(model, "head", None)]
  for name, value in expected.items():
    found = next(getattr(part, name) for part in parts if hasattr(part, name))
    assert found == value, name


@pytest.mark.parametrize("case", _REFUSED)
def test_a_config_is_refused_in_one_line(case, tmp_path):
  values, message = _REFUSED[case]
  (tmp_path / "config.json").write_text(json.dumps(values))
  with pytest.raises(ValueError) as caught:
    published_config.to_model_config(published_config.read_values(tmp_path))
  assert message in str(caught.value)
  assert str(caught.value).startswith("config.json has ")
  assert "\n" not in str(caught.value)


def test_the_table_is_long_enough():
  assert len(_READ) + len(_REFUSED) >= 40


def test_a_field_written_twice_is_refused(tmp_path):
  text = json.dumps(LLAMA["4.40.2"])[:-1] + ', "rope_theta": 500000.0}'
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match="it has 'rope_theta' twice"):
    published_config.read_values(tmp_path)


def test_a_byte_order_mark_is_no_field(tmp_path):
  text = json.dumps(LLAMA["4.40.2"])
  (tmp_path / "config.json").write_text(text, encoding="utf-8-sig")
  assert published_config.read_values(tmp_path) == LLAMA["4.40.2"]


def _llama(directory, rope, theta):
  """A Llama with recorded outputs of one θ, and a config that says it so."""
  values = checkpoints.make_config("ar")
  weights = checkpoints.make_weights("ar", values)
  models = {"ar": (values | {"rope_theta": theta}, weights)}
  io = checkpoints.record(models, num_chunks=20)
  values = {k: v for k, v in values.items() if k != "rope_theta"} | rope
  checkpoints.write(directory / "llama", values, weights)
  np.savez(directory / "io.npz", **io)
  return directory / "llama", directory / "io.npz"


def test_theta_of_rope_parameters_is_that_of_the_outputs(tmp_path):
  rope = {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}
  source, io = _llama(tmp_path, rope, 500000.0)
  convert(source, tmp_path / "run")
  run = load_run(tmp_path / "run")
  assert run.config.model.rope_theta == 500000.0
  verify(run, read_recording(io)).check()
  export(tmp_path / "run", tmp_path / "back")
  back = json.loads((tmp_path / "back" / "config.json").read_text())
  assert back == json.loads((source / "config.json").read_text())


def test_outputs_of_another_theta_are_not_ok(tmp_path):
  rope = {"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}
  source, io = _llama(tmp_path, rope, 10000.0)
  convert(source, tmp_path / "run")
  with pytest.raises(ValueError, match="ar_logits"):
    verify(load_run(tmp_path / "run"), read_recording(io)).check()


def test_the_binary_says_it_in_one_line(tmp_path):
  shutil.copytree(checkpoints.FIXTURES / "ar", tmp_path / "ar")
  path = tmp_path / "ar" / "config.json"
  values = json.loads(path.read_text()) | {"rope_parameters": _LLAMA3}
  path.write_text(json.dumps(values))
  result, errors = run_convert(source=tmp_path / "ar", target=tmp_path / "run")
  assert result.returncode == 1 and not (tmp_path / "run").exists()
  assert "rope_parameters of type 'llama3'; only 'default'" in errors[0]


def _edit(directory, **changes):
  path = directory / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
  ("kind", "name"),
  [
    ("ar", "num_hidden_layers"),
    ("ar", "hidden_size"),
    ("ar", "vocab_size"),
    ("energy", "num_mlp_layers"),
    ("ae", "num_encoder_layers"),
    ("ae", "patch_size"),
  ],
)
def test_sizes_that_no_tensor_has_are_refused_at_once(kind, name, tmp_path):
  """Before a model of that size is described, which takes time and memory."""
  source = tmp_path / kind
  shutil.copytree(checkpoints.FIXTURES / kind, source)
  shutil.copytree(
    checkpoints.FIXTURES / "ae", tmp_path / "ae", dirs_exist_ok=True
  )
  _edit(source, **{name: 600_000_000})
  with pytest.raises(ValueError, match=f"{name} 600000000, and its weights"):
    convert(source, tmp_path / "run")


def test_tied_embeddings_without_an_output_table_are_named(tmp_path):
  values = checkpoints.make_config("ar")
  weights = checkpoints.make_weights("ar", values)
  del weights["lm_head.weight"]
  checkpoints.write(tmp_path / "ar", values, weights)
  with pytest.raises(ValueError, match=r"lm_head.*ties it to its embeddings"):
    convert(tmp_path / "ar", tmp_path / "run")
  _edit(tmp_path / "ar", tie_word_embeddings=True)
  with pytest.raises(ValueError, match="tie_word_embeddings True; only False"):
    convert(tmp_path / "ar", tmp_path / "run")
