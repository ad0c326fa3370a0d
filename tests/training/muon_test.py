"""Tests calm_jax/training/muon.py against NumPy, optax and a table by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from calm_jax import config as config_lib
from calm_jax.config import heads
from calm_jax.families import build_model, param_axes
from calm_jax.training.muon import (
  _num_takers,
  is_matrix,
  orthogonalise,
  scale_by_muon,
)
from calm_jax.training.optimizer import make_optimizer
from tests.perturbation import relative_error
from tests.training import tiny

_BACKBONE = {
  f"backbone.layers.{name}"
  for name in (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "mlp.gate",
    "mlp.up",
    "mlp.down",
  )
}
_CHUNKS = {"chunk_embed.inner", "chunk_embed.outer"}
_ADALN = {
  "network.condition_embed",
  "network.time_outer",
  "network.blocks_0.inner",
  "network.blocks_0.outer",
  "network.blocks_0.modulation",
  "network.modulation",
}
_HEADS = {
  heads.EnergyHeadConfig(num_mlp_layers=1): {
    "condition_embed",
    "blocks_0.inner_x",
    "blocks_0.inner_condition",
    "blocks_0.middle",
    "blocks_0.gate_value",
    "blocks_0.down",
    "inner",
  },
  heads.DiffusionHeadConfig(num_mlp_layers=1): _ADALN,
  heads.FlowHeadConfig(num_mlp_layers=1): _ADALN,
  heads.FlowMapHeadConfig(num_mlp_layers=1): _ADALN | {"duration_outer"},
  heads.MixtureHeadConfig(num_mlp_layers=1): {
    "mlps_0.gate",
    "mlps_0.up",
    "mlps_0.down",
  },
}
_AUTOENCODER = {
  f"{half}coder.{block}.mlp.{name}"
  for half in ("en", "de")
  for block in ("token_blocks_0", "chunk_blocks_0")
  for name in ("gate", "up", "down")
} | {"encoder.squeeze", "decoder.expand"}


def _matrices(model_config):
  """Paths of the parameters that Muon takes, and of all others."""
  axes = jax.tree_util.tree_leaves_with_path(
    param_axes(build_model(model_config)),
    is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
  )
  found = {True: set(), False: set()}
  for path, names in axes:
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    found[is_matrix(names)].add(name)
  return found[True], found[False]


def _kernels(names):
  return {f"{name}.kernel" for name in names}


@pytest.mark.parametrize("head", _HEADS, ids=lambda head: type(head).__name__)
def test_the_matrices_of_a_next_vector_model(head):
  model = tiny.experiment("next_vector").model
  found, others = _matrices(dataclasses.replace(model, head=head))
  of_head = {f"head.{name}" for name in _HEADS[head]}
  assert found == _kernels(_BACKBONE | _CHUNKS | of_head)
  left = {
    heads.EnergyHeadConfig: {"noise_embed", "outer"},
    heads.MixtureHeadConfig: {"logits", "mean", "log_std"},
  }.get(
    type(head), {"network.latent_embed", "network.time_inner", "network.outer"}
  )
  if isinstance(head, heads.FlowMapHeadConfig):
    left = left | {"duration_inner"}
  kernels = {name for name in others if name.endswith("kernel")}
  assert kernels == _kernels(f"head.{name}" for name in left)


@pytest.mark.parametrize(
  ("stage", "matrices", "kernels", "tables"),
  [
    ("token", _BACKBONE, set(), {"embedding", "output"}),
    (
      "autoencoder",
      _AUTOENCODER,
      {"encoder.posterior", "decoder.from_latent"},
      {"embedding"},
    ),
  ],
)
def test_the_matrices_of_other_models(stage, matrices, kernels, tables):
  found, others = _matrices(tiny.experiment(stage).model)
  assert found == _kernels(matrices)
  rest = {name for name in others if not name.endswith(("bias", "scale"))}
  assert rest == _kernels(kernels) | {f"{name}.embedding" for name in tables}


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8)])
def test_newton_schulz_in_float64(shape):
  matrix = np.random.default_rng(0).normal(size=shape)
  x = matrix / np.linalg.norm(matrix)
  for _ in range(5):
    gram = x @ x.T
    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
  found = orthogonalise(jnp.float32(matrix)[None])[0]
  assert relative_error(found, x) < 1e-4
  # The definition of what it approximates, U Vᵀ.
  values = np.linalg.svd(found, compute_uv=False)
  np.testing.assert_array_less(np.abs(values - 0.95), 0.35)


def test_bfloat16_keeps_what_it_can():
  matrices = np.random.default_rng(1).normal(size=(2, 24, 32))
  found = orthogonalise(jnp.bfloat16(matrices))
  assert found.dtype == jnp.bfloat16
  found = np.float32(found)
  # Small singular values are lifted, and what rounding did to them with them.
  assert relative_error(found, orthogonalise(jnp.float32(matrices))) < 0.1
  values = np.linalg.svd(found, compute_uv=False)
  np.testing.assert_array_less(np.abs(values - 0.95), 0.35)


def test_hidden_states_side_by_side_are_matrices_of_their_own():
  rng = np.random.default_rng(2)
  parts = {
    "inner": [jnp.float32(rng.normal(size=(4, 10))) for _ in range(3)],
    "squeeze": [jnp.float32(rng.normal(size=(4, 6))) for _ in range(3)],
    "expand": [jnp.float32(rng.normal(size=(6, 4))) for _ in range(3)],
  }
  apart = {
    "inner": PartitionSpec("embed", "mlp"),
    "squeeze": PartitionSpec("mlp", "embed"),
    "expand": PartitionSpec("embed", "mlp"),
  }
  joined = {
    "inner": PartitionSpec("chunk_embed", "mlp"),
    "squeeze": PartitionSpec("chunk_mlp", "embed"),
    "expand": PartitionSpec("embed", "chunk_mlp"),
  }
  for name, kernels in parts.items():
    axis = 1 if name == "expand" else 0
    alone = scale_by_muon([apart[name]] * 3, beta=0.9)
    expected, _ = alone.update(kernels, alone.init(kernels))
    together = scale_by_muon([joined[name]], beta=0.9, chunk_size=3)
    kernel = [jnp.concatenate(kernels, axis)]
    (found,), _ = together.update(kernel, together.init(kernel))
    expected = jnp.concatenate(expected, axis)
    assert relative_error(found, expected) < 1e-5, name


@pytest.mark.parametrize(
  ("num_matrices", "num_copies", "expected"),
  [(4, 16, 4), (3, 16, 4), (1, 16, 1), (40, 16, 16), (17, 4, 4), (5, 6, 6)],
)
def test_copies_take_turns_where_it_helps(num_matrices, num_copies, expected):
  assert _num_takers(num_matrices, num_copies) == expected


def test_no_gradient_is_no_update():
  np.testing.assert_array_equal(orthogonalise(jnp.zeros((1, 3, 2))), 0)


def test_updates_are_those_of_optax():
  axes = {
    "down": PartitionSpec("mlp", "embed"),
    "key": PartitionSpec("layers", "embed", "kv_heads", "head_dim"),
    "output": PartitionSpec("layers", "heads", "head_dim", "embed"),
    "up": PartitionSpec("layers", "embed", "mlp"),
  }
  shapes = {
    "down": (6, 4),
    "key": (3, 4, 2, 5),
    "output": (3, 2, 5, 4),
    "up": (3, 4, 6),
  }
  numbers = {
    "down": optax.contrib.MuonDimensionNumbers(0, 1),
    "key": optax.contrib.MuonDimensionNumbers(1, (2, 3)),
    "output": optax.contrib.MuonDimensionNumbers((1, 2), 3),
    "up": optax.contrib.MuonDimensionNumbers(1, 2),
  }
  params = {k: jnp.zeros(shape) for k, shape in shapes.items()}
  expected = optax.contrib.muon(
    -1.0,
    beta=0.9,
    consistent_rms=0.2,
    muon_weight_dimension_numbers=numbers,
  )
  ours = scale_by_muon(list(axes.values()), beta=0.9)
  rng = np.random.default_rng(0)
  states = ours.init(params), expected.init(params)
  for _ in range(3):
    gradients = {
      k: jnp.float32(rng.normal(size=x.shape)) for k, x in params.items()
    }
    found, first = ours.update(gradients, states[0])
    wanted, second = expected.update(gradients, states[1], params)
    states = first, second
    for k in params:
      assert relative_error(found[k], wanted[k]) < 1e-5, k


def test_only_matrices_and_tables_decay():
  config = tiny.experiment("next_vector")
  config.num_steps = 10
  config.optimizer = config_lib.OptimizerConfig(
    name="muon", learning_rate=0.5, num_warmup_steps=0, weight_decay=0.1
  )
  optimizer = make_optimizer(config, param_axes(build_model(config.model)))
  params = tiny.params(config.model)
  zeros = jax.tree.map(jnp.zeros_like, params)
  update = jax.jit(optimizer.update)
  updates, _ = update(zeros, optimizer.init(params), params)

  def check(path, update, param):
    decay = 0.05 if path[-1].key in ("kernel", "embedding") else 0.0
    np.testing.assert_allclose(update, -decay * param, rtol=1e-6)

  jax.tree_util.tree_map_with_path(check, updates, params)
