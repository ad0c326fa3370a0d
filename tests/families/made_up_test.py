"""Kinds that nobody has heard of: counted, planned, swept, sampled, refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from calm_jax import config
from calm_jax.autoencoder.posteriors import posterior_kind
from calm_jax.checkpoint.run_directory import load_run
from calm_jax.families import FAMILIES, build_model, costs
from calm_jax.families.token import TokenFamily
from calm_jax.interop.export import export
from calm_jax.layers.linear import linear
from calm_jax.model.heads import HEADS, build_head
from calm_jax.model.heads.head import Head, HeadLoss
from calm_jax.planning.compilation import compile_step
from calm_jax.randomness import draw, sample_keys
from calm_jax.runs.continuation import TextGenerator
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.scaling import flops
from calm_jax.scaling.collect import collect
from calm_jax.training import sharding
from calm_jax.workflows import sweep_run
from calm_jax.workflows.sweep import Sweep
from calm_jax.workflows.sweep_file import read_sweep_file
from calm_jax.workflows.sweep_point import Scoring
from calm_jax.workflows.sweep_run import Status
from tests.data.prepared import prepare

_SWEEP = """
from calm_jax import config
from calm_jax.autoencoder.posteriors import posterior_kind

def get_sweep(argument):
  data = config.DataConfig(row_length=32, batch_size=4)
  optimizer = config.OptimizerConfig(learning_rate=0.01, num_warmup_steps=1)
  shared = dict(data=data, optimizer=optimizer, num_steps=2)
  sizes = dict(hidden_size=16, ffn_size=16, num_layers=1, num_heads=2)
  yield "ae", config.ExperimentConfig(model=config.AutoencoderConfig(
    chunk_size=4, latent_size=8, hidden_size=16, ffn_size=16), **shared)
  head = config.HeadConfig.kinds["shifted"]()
  yield "shifted", config.ExperimentConfig(
    model=config.NextVectorConfig(head=head, **sizes), autoencoder_run="ae",
    **shared)
  yield "other", config.ExperimentConfig(
    model=config.ModelConfig.kinds["other"](**sizes), **shared)
"""


@config.config_class
class _ShiftedConfig(config.HeadConfig):
  kind = "shifted"
  spread: float = 0.5


class _ShiftedHead(Head):
  """A Linear of the hidden state, and noise of a fixed spread."""

  config: _ShiftedConfig

  def setup(self):
    init = nn.initializers.normal(0.1)
    self.outer = linear(
      self.latent_size, ("embed", "latent"), dtype=jnp.float32, init=init
    )

  def loss(self, hidden, mean, log_std, keys):
    del log_std, keys
    return HeadLoss(jnp.square(self.outer(hidden) - mean).sum(-1), {})

  def sample(self, hidden, keys, sample_ids, noise_scale=1.0):
    size = (self.latent_size,)
    noise = draw(
      lambda key: jax.random.normal(key, size), sample_keys(keys, sample_ids)
    )
    centre = self.outer(hidden)[..., None, :]
    return centre + noise_scale * self.config.spread * noise


class _UncountedHead(_ShiftedHead):
  """Works with arrays of numbers alone."""

  def loss(self, hidden, mean, log_std, keys):
    if float(hidden.sum()) > 0:
      return super().loss(hidden, mean, log_std, keys)
    return HeadLoss(jnp.zeros(mean.shape[:2]), {})


@config.config_class
class _OtherConfig(config.TokenModelConfig):
  kind = "other"
  label = "other"
  title = "other model"


class _OtherFamily(TokenFamily):
  published = None


@pytest.fixture(scope="module")
def known():
  """Within it the kinds are registered, as a line in each table would."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(config.HeadConfig.kinds, "shifted", _ShiftedConfig)
    patch.setitem(HEADS, _ShiftedConfig, _ShiftedHead)
    patch.setitem(config.ModelConfig.kinds, "other", _OtherConfig)
    patch.setitem(FAMILIES, _OtherConfig, _OtherFamily())
    devices = jax.devices()[:1]
    patch.setattr(jax, "devices", lambda *_: devices)
    yield
  costs.training_flops_per_token.cache_clear()


@pytest.fixture(scope="module")
def sweep(known, tmp_path_factory):
  directory = tmp_path_factory.mktemp("made_up")
  (directory / "sweep.py").write_text(_SWEEP)
  text = "the quick brown fox jumps over the lazy dog. "
  prepare(directory, [text * 20] * 8, [text * 9] * 3)
  found = Sweep(
    read_sweep_file(f"{directory}/sweep.py"),
    directory / "runs",
    directory / "store",
    Scoring(num_samples=2, num_rows=4),
  )
  found.shown = set()  # continuations have a test of their own below
  return found


@pytest.fixture(scope="module")
def swept(sweep):
  statuses = sweep_run.run_all(sweep)
  assert set(statuses.values()) == {Status.FINISHED}
  return sweep


def test_they_are_swept_and_tabled(swept):
  points = collect(swept.result_files(), swept.workdir)
  assert [(point.name, point.family) for point in points] == [
    ("shifted", "calm"),
    ("other", "other"),
  ]
  for point in points:
    assert point.training_flops > 0 and point.inference_flops > 0


def test_they_are_counted(sweep):
  model = sweep.points["shifted"].model
  # A Linear of 16 to 8 with 128 multiply-adds a chunk of 4 tokens.
  assert flops.num_parameters(model)["head"] == 16 * 8
  autoencoder = sweep.points["shifted"].autoencoder
  for convention in ("paper", "executed"):
    found = flops.training_flops_per_token(
      model, autoencoder=autoencoder, convention=convention
    )
    assert found["head"] == 3 * 2 * 16 * 8 / 4
  other = sweep.points["other"].model
  token = config.TokenModelConfig(
    **{
      name: getattr(other, name)
      for name in ("vocabulary", "hidden_size", "ffn_size", "num_layers")
    },
    num_heads=2,
  )
  assert flops.num_parameters(other) == flops.num_parameters(token)
  assert flops.inference_flops_per_token(
    other
  ) == flops.inference_flops_per_token(token)


@pytest.mark.parametrize("name", ["shifted", "other"])
def test_they_are_planned(sweep, name):
  experiment = sweep.points[name]
  mesh = sharding.make_mesh(config.MeshConfig(data=1))
  step = compile_step(experiment, mesh)
  assert step.is_compiled
  counted = flops.num_parameters(experiment.model)
  assert step.num_parameters == sum(counted.values())


@pytest.mark.parametrize("name", ["shifted", "other"])
def test_they_are_sampled(swept, name):
  run = load_run(swept.directory(name))
  settings = SamplingSettings(temperature=0.5, num_candidates=8)
  found = TextGenerator(run, settings).continue_prompts(["ab"], num_tokens=8)
  assert found[0][0].tokens and np.max(found[0][0].tokens) < 258


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("shifted", "a shifted head .* has no counterpart"),
    ("other", "a model of kind 'other' has no counterpart"),
  ],
)
def test_they_are_refused_where_the_authors_have_none(
  swept, name, words, tmp_path
):
  with pytest.raises(ValueError, match=words):
    export(swept.directory(name), tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_what_cannot_be_counted_is_refused_before_training(
  sweep, tmp_path, monkeypatch
):
  monkeypatch.setitem(HEADS, _ShiftedConfig, _UncountedHead)
  monkeypatch.setattr(sweep, "workdir", tmp_path)
  costs.training_flops_per_token.cache_clear()
  costs._flops.cache_clear()
  trained = []
  monkeypatch.setattr(
    sweep_run, "train_point", lambda *args: trained.append(args)
  )
  with pytest.raises(ValueError, match="point 'shifted' cannot be put in the"):
    sweep_run.run_all(sweep)
  assert not trained


def test_what_cannot_be_written_is_refused_before_training(
  sweep, tmp_path, monkeypatch
):
  monkeypatch.delitem(config.HeadConfig.kinds, "shifted")
  monkeypatch.setattr(sweep, "workdir", tmp_path)
  with pytest.raises(ValueError, match=r"model\.head\.kind is 'shifted'"):
    sweep_run.run_all(sweep)


@config.config_class
class _UnknownPosterior(config.PosteriorConfig):
  kind = "unknown"


def test_kinds_without_a_line_are_refused_by_name(sweep, monkeypatch):
  monkeypatch.delitem(HEADS, _ShiftedConfig)
  with pytest.raises(ValueError, match="head of kind 'shifted' has no module"):
    build_head(sweep.points["shifted"].model)
  monkeypatch.delitem(FAMILIES, _OtherConfig)
  with pytest.raises(ValueError, match="model of kind 'other' has no family"):
    build_model(sweep.points["other"].model)
  autoencoder = config.AutoencoderConfig(posterior=_UnknownPosterior())
  with pytest.raises(ValueError, match="of kind 'unknown' has no functions"):
    posterior_kind(autoencoder)
