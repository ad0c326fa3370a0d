"""The paper's runs are there by name, with its sizes and budgets."""

import dataclasses

import pytest

from calm_jax.config import resolve
from calm_jax.planning.assumptions import complete
from calm_jax.scaling.flops import num_parameters, training_flops
from experiments import autoencoder, calm, sweep_heads, sweep_recipe, token

_VOCAB_SIZE = 128256


def _config(experiment, argument):
  return complete(experiment.get_config(argument), _VOCAB_SIZE)


def _tokens(config):
  return config.num_steps * config.data.batch_size * config.data.row_length


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 8])
def test_autoencoders(chunk_size):
  config = _config(autoencoder, f"k{chunk_size}")
  assert config.model.chunk_size == chunk_size
  assert config.model.latent_size == 32 * chunk_size
  assert _tokens(config) == 30_000 * 2**19
  with pytest.raises(ValueError, match=f"has chunk_size {chunk_size}"):
    _config(autoencoder, f"k{chunk_size},chunk_size=3")


def test_the_autoencoder_of_four_has_75_million_parameters():
  parameters = sum(num_parameters(_config(autoencoder, "k4").model).values())
  assert parameters == pytest.approx(75e6, rel=0.03)


# Parameters and training FLOPs of the paper's first table.
@pytest.mark.parametrize(
  ("experiment", "size", "parameters", "flops"),
  [
    (token, "s", 281e6, 6.6e20),
    (token, "m", 465e6, 11.9e20),
    (token, "l", 849e6, 22.5e20),
    (calm, "m", 371e6, 3.7e20),
    (calm, "l", 735e6, 7.7e20),
    (calm, "xl", 1.82e9, 19.5e20),
  ],
)
def test_sizes_of_the_first_table(experiment, size, parameters, flops):
  config = _config(experiment, size)
  found = sum(num_parameters(config.model).values())
  assert found == pytest.approx(parameters, rel=0.01)
  # The paper's step has 2.0 million tokens; ours has 2²¹.
  found = training_flops(config) * 500e9 / _tokens(config)
  assert found == pytest.approx(flops, rel=0.07 if size == "xl" else 0.03)
  assert config.num_chunks == 2048


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 8])
def test_the_step_has_two_million_tokens_at_any_chunk_size(chunk_size):
  config = _config(calm, f"l,chunk_size={chunk_size}")
  assert config.num_chunks == 2048
  assert _tokens(config) == 250_000 * 2**21


def test_the_ablation_study():
  config = _config(calm, "ablation,inputs=both,head=flow")
  model = config.model
  assert (config.num_steps, model.num_layers, model.hidden_size) == (
    50_000,
    12,
    768,
  )
  assert (model.inputs, model.head.kind) == ("both", "flow")
  assert model.head.num_mlp_layers == 3


@pytest.mark.parametrize("argument", ["xl", "l,head=flow", "s,inputs=both"])
def test_the_papers_sizes_follow_the_papers_recipe_unless_told(argument):
  own = calm.get_config(argument)
  assert own == calm.get_config(f"{argument},recipe=paper")
  assert own.optimizer.name == "adamw" and not own.model.brier_weight
  fast = calm.get_config(f"{argument},recipe=fast")
  assert fast.optimizer.name == "muon" and fast.model.auxiliary_weight
  assert (fast.model.brier_weight > 0) == (fast.model.head.kind == "energy")
  assert (fast.data, fast.num_steps) == (own.data, own.num_steps)


def test_small_sizes_follow_the_fast_recipe():
  for experiment in (calm, token):
    own = experiment.get_config("tiny")
    assert own == experiment.get_config("tiny,recipe=fast")
    assert own.optimizer.name == "muon"
    assert own != experiment.get_config("tiny,recipe=paper")


@pytest.mark.parametrize("size", ["tiny", "paper"])
def test_the_sweep_of_heads_fits_its_autoencoder(size):
  points = dict(sweep_heads.get_sweep(f"{size},num_seeds=1"))
  first = complete(points.pop("autoencoder"), _VOCAB_SIZE).model
  assert {*points} == {"energy-seed0", "flow-seed0", "diffusion-seed0"}
  for point in points.values():
    found = resolve(point, vocabulary=first.vocabulary, autoencoder=first)
    assert found.model.latent_size == first.latent_size
    assert found.model.chunk_size == 4


@pytest.mark.parametrize("size", ["tiny", "ladder"])
def test_the_sweep_of_recipes_reads_one_text(size):
  all_points = dict(sweep_recipe.get_sweep(f"{size},num_seeds=2"))
  runs = {it for it in all_points if it.startswith("autoencoder")}
  points = {it: all_points[it] for it in all_points if it not in runs}
  assert {point.autoencoder_run for point in points.values()} == runs
  assert "fast-seed1" in points
  assert len({_tokens(point) for point in points.values()}) == 1
  settings = [dataclasses.replace(it, seed=0) for it in points.values()]
  assert len({repr(it) for it in settings}) == len(points) / 2
