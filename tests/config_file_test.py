"""Tests ../calm_jax/config_file.py."""

import dataclasses
import json

import pytest

from calm_jax import config, config_file
from calm_jax.autoencoder.posteriors import POSTERIORS
from calm_jax.families import FAMILIES
from calm_jax.kernels.distance import DISTANCES
from calm_jax.model.heads import HEADS
from calm_jax.training.optimizer import OPTIMIZERS

_VOCABULARY = config.VocabularyConfig(
  size=258, begin_id=256, end_id=257, unscored_ids=(256,)
)


def _experiments():
  autoencoder = config.AutoencoderConfig(
    vocabulary=_VOCABULARY, latent_size=128
  )
  sources = (
    config.SourceConfig(path="a", weight=0.1),
    config.SourceConfig(path="b", num_epochs=2),
  )
  heads = (
    config.EnergyHeadConfig(alpha=1.1),
    config.DiffusionHeadConfig(),
    config.FlowHeadConfig(solver="euler"),
  )
  models = [
    autoencoder,
    config.TokenModelConfig(vocabulary=_VOCABULARY),
    *(config.NextVectorConfig(head=head) for head in heads),
  ]
  for model in models:
    yield config.ExperimentConfig(
      model=model,
      autoencoder=autoencoder,
      data=config.DataConfig(sources=sources, row_length=64),
      optimizer=config.OptimizerConfig(learning_rate=0.1 + 0.2),
    )


def _set(values, dotted, value):
  *groups, last = dotted.split(".")
  for group in groups:
    values = values[group]
  values[last] = value


@pytest.mark.parametrize(
  "experiment", list(_experiments()), ids=lambda it: type(it.model).__name__
)
def test_a_file_gives_back_the_config(experiment, tmp_path):
  path = tmp_path / "config.json"
  config_file.write(path, experiment)
  found = config_file.read(path, config.ExperimentConfig)
  assert found == experiment
  assert type(found.model) is type(experiment.model)
  assert [child.name for child in tmp_path.iterdir()] == ["config.json"]


def test_kind_tags_only_what_could_be_another_class():
  values = config_file.to_dict(list(_experiments())[2])
  assert values["model"]["kind"] == "next_vector"
  assert values["model"]["head"]["kind"] == "energy"
  assert "kind" not in values["autoencoder"]
  assert "kind" not in values["data"]


@pytest.mark.parametrize(
  ("dotted", "value", "message"),
  [
    ("model.num_layer", 3, r"model\.num_layer is not a field of NextVector"),
    ("model.num_layers", "4", r"model\.num_layers is '4'; .* type int"),
    ("model.num_layers", True, r"model\.num_layers is True; .* type int"),
    ("model.num_layers", 1.0, r"model\.num_layers is 1\.0; .* type int"),
    ("model.num_kv_heads", "2", r"model\.num_kv_heads .* type int or null"),
    ("model.num_layers", 0, "model: num_layers is 0"),
    ("model.head.alpha", None, r"model\.head\.alpha is None; .* type float"),
    ("model.head.kind", "enrgy", r"model\.head\.kind is 'enrgy'; choose one"),
    ("model.head", 3, r"model\.head is 3"),
    ("data", None, "data is None"),
    ("data.sources", [{"path": "a"}], r"data\.sources\[0\]\.name is missing"),
    ("data.sources", "a", r"data\.sources is 'a'"),
    ("data.use_random_fill", 1, r"data\.use_random_fill is 1; .* type bool"),
    ("seed", None, "seed is None"),
  ],
)
def test_what_does_not_fit_is_named(dotted, value, message):
  values = config_file.to_dict(list(_experiments())[2])
  _set(values, dotted, value)
  with pytest.raises(ValueError, match=message):
    config_file.from_dict(config.ExperimentConfig, values)


def test_a_missing_field_is_named():
  values = config_file.to_dict(next(_experiments()))
  del values["optimizer"]["b1"]
  with pytest.raises(ValueError, match=r"optimizer\.b1 is missing"):
    config_file.from_dict(config.ExperimentConfig, values)


def test_an_integer_serves_as_a_float():
  values = config_file.to_dict(config.OptimizerConfig())
  values["clip_norm"] = 2
  found = config_file.from_dict(config.OptimizerConfig, values)
  assert type(found.clip_norm) is float


def test_flags_of_the_wrong_type_are_caught():
  experiment = next(_experiments())
  experiment.num_steps = "ten"
  with pytest.raises(ValueError, match=r"num_steps is 'ten'; .* type int"):
    config_file.check_types(experiment)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ('{"format_version": 99, "config": {}}', "format_version 99"),
    ('{"config": {}}', "format_version None"),
    ("[1, 2]", "no JSON object"),
    ("{", "is damaged"),
    ('{"format_version": 1}', "config.json: the config is None"),
    ('{"format_version": 1, "config": {"a": 1}}', "a is not a field of"),
  ],
)
def test_a_foreign_file_is_refused(content, message, tmp_path):
  path = tmp_path / "config.json"
  path.write_text(content)
  with pytest.raises(ValueError, match=message):
    config_file.read(path, config.ExperimentConfig)


def test_differences_are_dotted_and_hold_both_values():
  _, _, first, other_head, _ = _experiments()
  second = config_file.from_dict(
    config.ExperimentConfig, json.loads(json.dumps(config_file.to_dict(first)))
  )
  assert config_file.differences(first, second) == {}
  second.model.num_layers = 3
  second.optimizer.learning_rate = 1.0
  second.autoencoder = None
  found = config_file.differences(first, second)
  assert set(found) == {
    "model.num_layers",
    "optimizer.learning_rate",
    "autoencoder",
  }
  assert found["model.num_layers"] == (12, 3)
  assert config_file.differences(first, other_head) == {
    "model.head": ("energy", "diffusion")
  }


def test_every_kind_is_in_its_table_under_its_name():
  for base in (config.ModelConfig, config.HeadConfig, config.PosteriorConfig):
    assert all(name == kind.kind for name, kind in base.kinds.items())
    assert all(issubclass(kind, base) for kind in base.kinds.values())


def test_names_in_configs_are_those_of_the_tables():
  # A config knows no other file of the package, so it says the names again.
  for name in DISTANCES:
    is_kernel = name != "energy"
    config.EnergyHeadConfig(score=name, bandwidth=1.0 if is_kernel else None)
  for name in OPTIMIZERS:
    config.OptimizerConfig(name=name)
  for build, field, table in (
    (config.EnergyHeadConfig, "score", DISTANCES),
    (config.OptimizerConfig, "name", OPTIMIZERS),
  ):
    with pytest.raises(ValueError, match=f"one of {', '.join(table)}"):
      build(**{field: "another"})
  for kinds, table in (
    (config.HeadConfig.kinds, HEADS),
    (config.PosteriorConfig.kinds, POSTERIORS),
    (config.ModelConfig.kinds, FAMILIES),
  ):
    assert set(kinds.values()) == set(table)


@config.config_class
class _First:
  """As a released version wrote it."""

  size: int = 3


@config.config_class
class _Second(_First):
  """The same class later, with a field more."""

  depth: int = config.added(5, absent=1)


@config.config_class
class _Outer:
  inner: _Second = dataclasses.field(default_factory=_Second)


def test_a_missing_field_means_what_its_absence_meant():
  old = config_file.to_dict(_First())
  assert config_file.from_dict(_Second, old) == _Second(depth=1)
  assert _Second().depth == 5


def test_only_fields_added_later_may_be_missing():
  with pytest.raises(ValueError, match=r"size is missing; _Second needs it"):
    config_file.from_dict(_Second, {"depth": 2})
  with pytest.raises(ValueError, match=r"width is not a field of _Second"):
    config_file.from_dict(_Second, {"size": 3, "width": 1})
  with pytest.raises(ValueError, match=r"depth is 'x'; it should be of type"):
    config_file.from_dict(_Second, {"size": 3, "depth": "x"})


def test_a_config_hashes_as_it_did_before_its_class_grew():
  old = config_file.to_dict(_First())
  read = config_file.from_dict(_Second, old)
  assert config_file.to_dict(read, with_absent=False) == old
  changed = config_file.to_dict(_Second(depth=2), with_absent=False)
  assert changed == {"size": 3, "depth": 2}


def test_news_are_what_the_first_version_could_not_say():
  assert config.news(_Outer()) == {"inner.depth": 5}
  assert config.news(_Outer(inner=_Second(depth=1))) == {}
  assert config.news(config.AutoencoderConfig()) == {}
