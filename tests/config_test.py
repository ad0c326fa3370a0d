"""Tests calm_jax/config.py: checks, what `resolve` fills in, arguments."""

import dataclasses
import math

import pytest

from calm_jax import config

_VOCABULARY = config.VocabularyConfig(
  size=258, begin_id=256, end_id=257, unscored_ids=(256,)
)


def _autoencoder(**changes):
  return config.AutoencoderConfig(
    **{"vocabulary": _VOCABULARY, "latent_size": 128} | changes
  )


def _resolve(model, autoencoder=None, vocabulary=_VOCABULARY):
  return config.resolve(
    config.ExperimentConfig(model=model),
    vocabulary=vocabulary,
    autoencoder=autoencoder,
  )


@pytest.mark.parametrize(
  ("size", "mask_id", "padded"),
  [(127, None, 128), (128, None, 256), (258, None, 384), (128, 0, 128)],
)
def test_the_padded_vocabulary_holds_the_mask_id(size, mask_id, padded):
  vocabulary = config.VocabularyConfig(
    size=size, begin_id=1, end_id=2, mask_id=mask_id
  )
  assert vocabulary.mask_id == (size if mask_id is None else mask_id)
  assert vocabulary.padded_size == padded


@pytest.mark.parametrize(
  ("build", "values", "message"),
  [
    (config.VocabularyConfig, {"end_id": 5}, "end_id is 5; it lies between"),
    (config.VocabularyConfig, {"mask_id": -1}, "mask_id is -1"),
    (config.VocabularyConfig, {"unscored_ids": (7,)}, "unscored_ids holds 7"),
    (config.VocabularyConfig, {"unscored_ids": (4,)}, "without the end id 4"),
    (config.AutoencoderConfig, {"num_decoder_layers": 3}, "even number"),
    (config.AutoencoderConfig, {"kl_weight": -1.0}, "kl_weight is -1.0"),
    (config.AutoencoderConfig, {"latent_size": 0}, "latent_size is 0"),
    (config.NextVectorConfig, {"latent_size": 0}, "latent_size is 0"),
    (config.NextVectorConfig, {"num_heads": 5}, "768 is not a multiple of"),
    (config.NextVectorConfig, {"num_heads": 256}, "odd head width"),
    (config.NextVectorConfig, {"num_kv_heads": 3}, "num_heads 16 is not a"),
    (config.TokenModelConfig, {"dtype": "float16"}, "dtype is 'float16'"),
    (config.EnergyHeadConfig, {"num_samples": 1}, "at least 2"),
    (config.EnergyHeadConfig, {"alpha": 2.0}, "alpha is 2.0"),
    (config.EnergyHeadConfig, {"score": "cosine"}, "'cosine'; choose one of"),
    (config.EnergyHeadConfig, {"score": "gaussian"}, "takes a bandwidth"),
    (
      config.EnergyHeadConfig,
      {"score": "gaussian", "bandwidth": 8.0, "alpha": 1.5},
      "and no alpha",
    ),
    (config.EnergyHeadConfig, {"bandwidth": 8.0}, "the energy score has none"),
    (
      config.EnergyHeadConfig,
      {"score": "inverse_multiquadric", "bandwidth": -1.0},
      "bandwidth is -1.0; it is positive",
    ),
    (
      config.EnergyHeadConfig,
      {"use_antithetic_targets": True, "num_targets": 5},
      "give an even number",
    ),
    (config.DiffusionHeadConfig, {"num_sampling_steps": 1001}, "1001"),
    (config.FlowHeadConfig, {"solver": "rk4"}, "'rk4'; choose one of midpoint"),
    (
      config.HeadConfig.kinds["mixture"],
      {"num_components": 0},
      "num_components is 0",
    ),
    (
      config.HeadConfig.kinds["flow_map"],
      {"num_jumps": 4},
      "num_jumps is 4 of num_samples 4",
    ),
    (config.SourceConfig, {"path": "a", "weight": math.nan}, "weight nan"),
    (config.SourceConfig, {"path": "a", "weight": 0.0}, "weight 0.0"),
    (config.OptimizerConfig, {"learning_rate": math.nan}, "learning_rate is n"),
    (config.OptimizerConfig, {"num_warmup_steps": -1}, "num_warmup_steps is -"),
    (config.OptimizerConfig, {"name": "sgd"}, "choose one of adamw, muon"),
    (config.OptimizerConfig, {"muon_beta": 1.0}, "muon_beta is 1.0"),
    (config.MeshConfig, {"data": 0}, "data is 0"),
    (config.MeshConfig, {"fsdp": -2}, "fsdp is -2; it is positive, or -1"),
  ],
)
def test_impossible_values_are_named(build, values, message):
  if build is config.VocabularyConfig:
    values = {"size": 5, "begin_id": 3, "end_id": 4} | values
  with pytest.raises(ValueError, match=message):
    build(**values)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"data": config.DataConfig(row_length=62)}, "nearest are 60 and 64"),
    ({"data": config.DataConfig(row_length=4)}, "single chunk"),
    ({"num_microbatches": 3}, "batch_size 8 is not a multiple"),
    ({"num_microbatches": 0}, "num_microbatches is 0"),
    ({"num_eval_rows": 0}, "num_eval_rows is 0"),
    ({"eval_interval": -1}, "eval_interval is -1"),
  ],
)
def test_parts_that_do_not_fit_are_named(values, message):
  with pytest.raises(ValueError, match=message):
    config.ExperimentConfig(model=config.NextVectorConfig(), **values)


def test_an_autoencoder_may_have_rows_of_one_chunk():
  one_chunk = config.ExperimentConfig(
    model=_autoencoder(), data=config.DataConfig(row_length=4)
  )
  assert one_chunk.num_chunks == 1


def test_resolve_fills_what_was_left_open():
  found = _resolve(config.AutoencoderConfig(chunk_size=8))
  assert found.model.latent_size == 256
  assert found.model.vocabulary == _VOCABULARY
  model = config.NextVectorConfig()
  found = _resolve(model, _autoencoder(latent_size=24))
  assert found.model.latent_size == 24
  assert found.autoencoder == _autoencoder(latent_size=24)
  assert model.latent_size is None and model.vocabulary is None


def test_a_new_model_takes_the_vocabulary_of_converted_weights():
  """They mask with id 0 and score every id, unlike the tokenizer."""
  converted = dataclasses.replace(_VOCABULARY, mask_id=0, unscored_ids=())
  found = _resolve(
    config.NextVectorConfig(), _autoencoder(vocabulary=converted)
  )
  assert found.model.vocabulary == converted


@pytest.mark.parametrize(
  ("autoencoder", "message"),
  [
    (None, "--config.autoencoder_run=DIR"),
    (_autoencoder(chunk_size=2), "chunk_size 4 and its autoencoder 2"),
    (
      _autoencoder(
        vocabulary=config.VocabularyConfig(size=300, begin_id=256, end_id=257)
      ),
      "size 258 and the autoencoder's 300",
    ),
  ],
)
def test_an_autoencoder_that_does_not_fit_is_refused(autoencoder, message):
  with pytest.raises(ValueError, match=message):
    _resolve(config.NextVectorConfig(), autoencoder)


def test_resolve_checks_what_flags_have_set():
  experiment = config.ExperimentConfig(model=config.TokenModelConfig())
  experiment.model.num_layers = 0
  with pytest.raises(ValueError, match="num_layers is 0"):
    config.resolve(experiment, vocabulary=_VOCABULARY)


def test_arguments_take_the_type_of_their_default():
  parse = lambda text: config.parse_argument(
    text, size=("tiny", "m"), head="energy", chunk_size=4
  )
  assert parse(None) == {"size": "tiny", "head": "energy", "chunk_size": 4}
  assert parse("m,chunk_size=8,head=flow") == {
    "size": "m",
    "head": "flow",
    "chunk_size": 8,
  }
  for text, message in (
    ("xl", "size is one of tiny, m"),
    ("heads=2", "'heads=2' is not known; .* chunk_size=4"),
    ("chunk_size=two", "should be of type int"),
  ):
    with pytest.raises(ValueError, match=message):
      parse(text)


def test_an_experiment_has_a_model():
  for model in (None, config.OptimizerConfig()):
    with pytest.raises(ValueError, match="NextVectorConfig, TokenModelConfig"):
      config.ExperimentConfig(model=model)
  with pytest.raises(ValueError, match="AutoencoderConfig, NextVectorConfig"):
    config.ExperimentConfig()
