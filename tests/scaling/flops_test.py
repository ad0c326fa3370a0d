"""Tests calm_jax/scaling/flops.py against the paper's published numbers."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import pytest

from calm_jax import config as configs
from calm_jax.autoencoder import autoencoder as autoencoder_lib
from calm_jax.model import next_vector, token_baseline
from calm_jax.scaling import flops

_VOCABULARY = configs.VocabularyConfig(
  size=128256, begin_id=128000, end_id=128001
)
_TOKENS = 250_000 * 2.0e6
#       layers, D, F, head blocks
_SIZES = {
  "s": (12, 768, 2048, 3),
  "m": (16, 1024, 2752, 4),
  "l": (16, 1536, 4096, 4),
  "xl": (16, 2560, 6880, 4),
}


def _backbone(size):
  layers, hidden_size, ffn_size, _ = _SIZES[size]
  return {
    "vocabulary": _VOCABULARY,
    "num_layers": layers,
    "hidden_size": hidden_size,
    "ffn_size": ffn_size,
  }


def _token(size):
  return configs.TokenModelConfig(**_backbone(size))


def _autoencoder(chunk_size=4):
  return configs.AutoencoderConfig(
    vocabulary=_VOCABULARY, chunk_size=chunk_size, latent_size=32 * chunk_size
  )


def _calm(size, chunk_size=4, head=configs.EnergyHeadConfig):
  return configs.NextVectorConfig(
    **_backbone(size),
    chunk_size=chunk_size,
    latent_size=32 * chunk_size,
    head=head(num_mlp_layers=_SIZES[size][3]),
  )


def _ours(model, autoencoder=None):
  """Parameters, training FLOPs of the run, inference FLOPs a token."""
  training = flops.training_flops_per_token(model)
  inference = flops.inference_flops_per_token(model, autoencoder=autoencoder)
  return (
    sum(flops.num_parameters(model).values()),
    sum(training.values()) * _TOKENS,
    sum(inference.values()),
  )


# The published numbers; ours stand in the comment after each. CALM-XL trains
# for 6 % less in the paper than by the formula that meets all other rows.
_TABLE = [
  # family, size, parameters, training FLOPs, inference FLOPs a token
  ("token", "s", 281e6, 6.6e20, 4.4e8),  # 282.2e6, 6.64e20, 4.43e8
  ("token", "m", 465e6, 11.9e20, 7.9e8),  # 465.3e6, 12.03e20, 8.02e8
  ("token", "l", 849e6, 22.5e20, 15.0e8),  # 847.4e6, 22.53e20, 15.02e8
  ("calm", "m", 371e6, 3.7e20, 2.9e8),  # 371.9e6, 3.61e20, 2.90e8
  ("calm", "l", 735e6, 7.7e20, 4.6e8),  # 735.5e6, 7.73e20, 4.54e8
  ("calm", "xl", 1.82e9, 19.5e20, 9.4e8),  # 1.830e9, 20.67e20, 9.65e8
]


@pytest.mark.parametrize(("family", "size", "p", "t", "i"), _TABLE)
def test_first_table_of_the_paper(family, size, p, t, i):
  model = _token(size) if family == "token" else _calm(size)
  parameters, training, inference = _ours(model, _autoencoder())
  assert parameters == pytest.approx(p, rel=0.03)
  assert training == pytest.approx(t, rel=0.07 if size == "xl" else 0.03)
  assert inference == pytest.approx(i, rel=0.03)


@pytest.mark.parametrize(
  ("chunk_size", "published"),
  [
    (1, 3.04e21),  # 3.05e21
    (2, 1.54e21),  # 1.53e21
    (4, 0.79e21),  # 0.77e21
    (8, 0.42e21),  # 0.39e21
  ],
)
def test_row_of_chunk_sizes(chunk_size, published):
  model = _calm("l", chunk_size)
  _, training, _ = _ours(model, _autoencoder(chunk_size))
  assert training == pytest.approx(published, rel=0.07)


def test_autoencoder_has_75_million_parameters():
  parameters = sum(flops.num_parameters(_autoencoder()).values())
  assert parameters == pytest.approx(75e6, rel=0.03)


def test_two_hundred_candidates_cost_what_the_paper_reports():
  """30 to 70 times the matched token model, as the naive count has it."""
  for size, matched in (("m", "s"), ("l", "m")):
    costs = flops.inference_flops_per_token(
      _calm(size), autoencoder=_autoencoder(), temperature=0.5
    )
    token = sum(flops.inference_flops_per_token(_token(matched)).values())
    assert 30 < sum(costs.values()) / token < 70


def test_decode_is_half_of_one_sample():
  parts = flops.inference_flops_per_token(
    _calm("m"), autoencoder=_autoencoder()
  )
  assert parts["decode"] / sum(parts.values()) == pytest.approx(0.47, abs=0.02)


@pytest.mark.parametrize(
  ("head", "num_evaluations"),
  [
    (configs.EnergyHeadConfig(), 1),
    (configs.DiffusionHeadConfig(num_sampling_steps=100), 100),
    (configs.FlowHeadConfig(num_sampling_steps=10), 20),
    (configs.FlowHeadConfig(num_sampling_steps=10, solver="euler"), 10),
  ],
)
def test_sampling_steps_are_counted(head, num_evaluations):
  model = dataclasses.replace(_calm("m"), head=head)
  parts = flops.inference_flops_per_token(model, autoencoder=_autoencoder())
  block = 6 if head.kind == "energy" else 5
  once = 2 * block * 1024**2 * head.num_mlp_layers / 4
  assert parts["head"] == num_evaluations * once


def test_flops_of_a_run_are_those_of_its_tokens():
  config = configs.ExperimentConfig(
    model=_token("s"),
    data=configs.DataConfig(row_length=2048, batch_size=16),
    num_steps=10,
  )
  per_token = flops.training_flops_per_token(config.model)
  total = 10 * 16 * 2048 * sum(per_token.values())
  assert flops.training_flops(config) == total
  half = config.num_steps // 2
  assert flops.training_flops(config, num_steps=half) == total / 2


def test_muon_multiplies_and_adamw_does_not():
  config = configs.ExperimentConfig(
    model=configs.TokenModelConfig(
      vocabulary=_VOCABULARY,
      hidden_size=64,
      ffn_size=96,
      num_layers=3,
      num_heads=4,
    ),
    num_steps=10,
  )
  assert flops.optimizer_flops_per_step(config) == 0
  executed = flops.training_flops(config, convention="executed")
  config.optimizer = configs.OptimizerConfig(name="muon")
  # XXᵀ, its square and a product with X, five times, the shorter side first.
  iteration = lambda n, m: 2 * (2 * n * n * m + n**3)
  d, f = config.model.hidden_size, config.model.ffn_size
  layer = 4 * iteration(d, d) + 3 * iteration(*sorted((d, f)))
  per_step = 5 * config.model.num_layers * layer
  assert flops.optimizer_flops_per_step(config) == per_step
  added = flops.training_flops(config, convention="executed") - executed
  assert added == pytest.approx(per_step * config.num_steps)


@pytest.mark.parametrize(
  ("message", "arguments"),
  [
    ("temperature is 1.5", {"temperature": 1.5}),
    ("num_candidates 0", {"num_candidates": 0}),
    ("convention is 'exact'", {"convention": "exact"}),
    ("pass autoencoder", {}),
  ],
)
def test_refuses_with_the_reason(message, arguments):
  with pytest.raises(ValueError, match=message):
    flops.inference_flops_per_token(_calm("m"), **arguments)


_TINY = configs.VocabularyConfig(size=300, begin_id=256, end_id=257)
_TINY_AUTOENCODER = configs.AutoencoderConfig(
  vocabulary=_TINY,
  chunk_size=4,
  latent_size=24,
  hidden_size=32,
  ffn_size=80,
  num_encoder_layers=4,
)
_TINY_BACKBONE = {
  "vocabulary": _TINY,
  "num_layers": 3,
  "hidden_size": 48,
  "ffn_size": 112,
  "num_heads": 4,
  "num_kv_heads": 2,
  # auto holds one branch a platform, and all would be counted.
  "attention_implementation": "reference",
}
_HEADS = {
  "energy": configs.EnergyHeadConfig(noise_size=20, num_samples=5),
  "diffusion": configs.DiffusionHeadConfig(num_sampling_steps=7),
  "flow": configs.FlowHeadConfig(num_sampling_steps=3),
  "euler": configs.FlowHeadConfig(num_sampling_steps=3, solver="euler"),
}
_CALM_MODELS = [
  configs.NextVectorConfig(
    **_TINY_BACKBONE, latent_size=24, inputs=inputs, head=head
  )
  for inputs, head in [
    *[("tokens", head) for head in _HEADS.values()],
    ("latent", _HEADS["energy"]),
    ("both", _HEADS["energy"]),
  ]
]
_TINY_TOKEN = configs.TokenModelConfig(**_TINY_BACKBONE)
_ROWS, _CHUNKS = 2, 6


def _calm_inputs(model):
  keys = jax.random.split(jax.random.key(0), (_ROWS, _CHUNKS))
  tokens = jnp.zeros((_ROWS, _CHUNKS, model.chunk_size), jnp.int32)
  return tokens, keys, jnp.zeros((_ROWS, _CHUNKS, model.latent_size))


def _shapes(module, *arguments):
  init = jax.eval_shape(module.init, jax.random.key(0), *arguments)
  return {"params": init["params"]}


def _num_in_tree(variables):
  sizes = [leaf.size for leaf in jax.tree.leaves(variables)]
  return sum(sizes)


def _dot_flops(jaxpr):
  """2·m·k·n over every matrix product, times the trips of its loops."""
  total = 0
  for equation in jaxpr.eqns:
    trips = equation.params.get("length", 1)
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      depth = math.prod(shape[axis] for axis in contracted)
      total += 2 * depth * equation.outvars[0].aval.size
    for inner in jax.tree.leaves(
      list(equation.params.values()),
      is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
    ):
      inner = getattr(inner, "jaxpr", inner)
      if hasattr(inner, "eqns"):
        total += trips * _dot_flops(inner)
  return total


def _counted(module, variables, method, *arguments):
  function = functools.partial(module.apply, method=method)
  return _dot_flops(jax.make_jaxpr(function)(variables, *arguments).jaxpr)


@pytest.mark.parametrize(
  "model", _CALM_MODELS, ids=lambda model: f"{model.inputs}-{model.head.kind}"
)
def test_next_vector_model_is_counted_exactly(model):
  module = next_vector.NextVectorModel(model)
  tokens, keys, latents = _calm_inputs(model)
  variables = _shapes(module, tokens, keys, latents)
  assert sum(flops.num_parameters(model).values()) == _num_in_tree(variables)

  parts = flops.inference_flops_per_token(
    model,
    num_positions=_CHUNKS,
    autoencoder=_TINY_AUTOENCODER,
    temperature=0.5,
    num_candidates=9,
    convention="executed",
  )
  num_tokens = tokens.size
  hidden = jnp.zeros((_ROWS, _CHUNKS, 48))
  found = _counted(module, variables, "hidden", tokens, latents)
  assert found == (parts["backbone"] + parts["attention"]) * num_tokens
  ids = jnp.arange(9, dtype=jnp.uint32)
  found = _counted(module, variables, "sample", hidden, keys, ids)
  assert found == parts["head"] * num_tokens

  found = _counted(module, variables, "loss", hidden, latents, latents, keys)
  training = flops.training_flops_per_token(
    model, autoencoder=_TINY_AUTOENCODER, convention="executed"
  )
  assert found == training["head"] * num_tokens / 3


def test_token_model_is_counted_exactly():
  module = token_baseline.TokenModel(_TINY_TOKEN)
  tokens = jnp.zeros((_ROWS, _CHUNKS, 1), jnp.int32)
  variables = _shapes(module, tokens)
  expected = sum(flops.num_parameters(_TINY_TOKEN).values())
  assert expected == _num_in_tree(variables)
  per_token = flops.inference_flops_per_token(
    _TINY_TOKEN, num_positions=_CHUNKS
  )
  found = _counted(module, variables, None, tokens)
  assert found == sum(per_token.values()) * tokens.size


def test_autoencoder_is_counted_exactly():
  module = autoencoder_lib.Autoencoder(_TINY_AUTOENCODER)
  tokens = jnp.zeros((_ROWS, _CHUNKS, 4), jnp.int32)
  variables = _shapes(module, tokens)
  expected = sum(flops.num_parameters(_TINY_AUTOENCODER).values())
  assert expected == _num_in_tree(variables)
  per_token = flops.training_flops_per_token(_TINY_AUTOENCODER)
  found = _counted(module, variables, None, tokens)
  assert found == sum(per_token.values()) * tokens.size / 3
