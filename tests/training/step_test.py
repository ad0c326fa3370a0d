"""Tests calm_jax/training/step.py: one step on every mesh, in any parts."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from calm_jax.config import MeshConfig, OptimizerConfig
from calm_jax.families import build_model, family_of, param_axes
from calm_jax.losses.mean import compute
from calm_jax.randomness import stream_key
from calm_jax.training import sharding
from calm_jax.training.optimizer import make_optimizer
from calm_jax.training.state import init_state
from calm_jax.training.step import Program, train_step
from tests.cached import cached
from tests.perturbation import relative_error
from tests.training import tiny
from tests.training.gradients import mesh_gradients

_ONE = MeshConfig(data=1)
_MESHES = {
  "data": MeshConfig(data=8),
  "fsdp": MeshConfig(data=1, fsdp=8),
  "cube": MeshConfig(data=2, fsdp=2, tensor=2),
  "tensor": MeshConfig(data=1, fsdp=4, tensor=2),
  "sequence": MeshConfig(data=2, tensor=2, sequence=2),
}
_slow = pytest.mark.slow


def _program(stage, mesh_config, **changes):
  config = tiny.experiment(stage, mesh=mesh_config, **changes)
  devices = jax.devices()[: 1 if mesh_config is _ONE else 8]
  return config, Program(config, sharding.make_mesh(mesh_config, devices))


def _frozen(config, mesh):
  if config.autoencoder is None:
    return None
  params = tiny.params(config.autoencoder, seed=2)
  return jax.device_put(params, sharding.replicated(mesh, params))


def _gradients(config, program, num_microbatches=1):
  """Loss and gradients at random parameters, as NumPy arrays."""
  found, sums = mesh_gradients(
    config,
    program,
    _frozen(config, program.mesh),
    stream_key(1, "test"),
    num_microbatches,
  )
  return compute(jax.device_get(sums))["loss"], jax.device_get(found)


@cached
def _expected(stage):
  return _gradients(*_program(stage, _ONE))


@pytest.mark.parametrize(
  ("stage", "mesh", "num_microbatches"),
  [
    ("autoencoder", "cube", 2),
    ("next_vector", "cube", 2),
    ("token", "cube", 2),
    ("next_vector", "fsdp", 1),
    pytest.param("autoencoder", "fsdp", 1, marks=_slow),
    pytest.param("token", "tensor", 1, marks=_slow),
    pytest.param("next_vector", "data", 1, marks=_slow),
    pytest.param("next_vector", "tensor", 1, marks=_slow),
    pytest.param("next_vector", "tensor", 2, marks=_slow),
    pytest.param("next_vector", "sequence", 1, marks=_slow),
  ],
)
def test_every_mesh_and_split_gives_what_one_device_gives(
  stage, mesh, num_microbatches
):
  config, program = _program(stage, _MESHES[mesh])
  # Microbatches count differently many chunks, so means of means would fail.
  counts = tiny.batch(config).token_mask.all(axis=-1).sum(axis=1)
  assert counts[::2].sum() != counts[1::2].sum()
  loss, gradients = _gradients(config, program, num_microbatches)
  expected_loss, expected = _expected(stage)
  assert relative_error(loss, expected_loss) < 1e-5
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(gradients),
    jax.tree.leaves(expected),
    strict=True,
  )
  for (path, found), wanted in pairs:
    assert relative_error(found, wanted) < 1e-5, path


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp", "cube"])
@pytest.mark.parametrize("implementation", ["reference", "xla", "pallas"])
def test_every_energy_score_gives_what_one_device_gives(implementation, mesh):
  config, program = _program("next_vector", _MESHES[mesh])
  config.model.head.implementation = implementation
  loss, gradients = _gradients(config, program)
  expected_loss, expected = _expected("next_vector")
  assert relative_error(loss, expected_loss) < 1e-5
  for found, wanted in zip(
    jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True
  ):
    assert relative_error(found, wanted) < 1e-5


def _curve(stage, mesh_config, num_steps=10, **changes):
  optimizer = OptimizerConfig(learning_rate=1e-2, num_warmup_steps=5)
  config, program = _program(stage, mesh_config, optimizer=optimizer, **changes)
  frozen = _frozen(config, program.mesh)
  places = jax.tree.map(lambda x: x.sharding, program.shapes)
  state = program.init()._replace(params=tiny.params(config.model))
  state = jax.device_put(state, places)
  losses = []
  for step in range(num_steps):
    batch = sharding.global_batch(program.mesh, tiny.batch(config, step), 1)
    state, sums = program.step(state, frozen, batch)
    losses.append(compute(jax.device_get(sums)))
  return losses


@pytest.mark.slow
@pytest.mark.parametrize("stage", tiny.STAGES)
def test_ten_steps_follow_the_same_curve_on_a_mesh_and_in_parts(stage):
  expected = _curve(stage, _ONE)
  assert expected[-1]["loss"] < expected[0]["loss"]
  found = _curve(stage, _MESHES["cube"], num_microbatches=2)
  for a, b in zip(found, expected, strict=True):
    # Of dead dimensions each microbatch has its own number.
    for name in {*b} - {"learning_rate", "dead_dimensions"}:
      np.testing.assert_allclose(a[name], b[name], rtol=1e-4, err_msg=name)
    assert a["learning_rate"] == b["learning_rate"]


def _after_five_steps(stage, mesh_config):
  """Parameters, as NumPy arrays, that Muon reaches."""
  optimizer = OptimizerConfig(
    name="muon", learning_rate=1e-3, num_warmup_steps=0
  )
  config, program = _program(stage, mesh_config, optimizer=optimizer)
  frozen = _frozen(config, program.mesh)
  state = program.init()._replace(params=tiny.params(config.model))
  places = jax.tree.map(lambda x: x.sharding, program.shapes)
  state = jax.device_put(state, places)
  for step in range(5):
    batch = sharding.global_batch(program.mesh, tiny.batch(config, step), 1)
    state, _ = program.step(state, frozen, batch)
  return jax.device_get(state.params)


_muon_on_one_device = cached(lambda stage: _after_five_steps(stage, _ONE))


@pytest.mark.parametrize(
  ("stage", "mesh"),
  [
    ("token", "cube"),
    *(
      pytest.param(stage, mesh, marks=_slow)
      for stage, mesh in [
        ("autoencoder", "cube"),
        ("next_vector", "cube"),
        ("next_vector", "data"),
        ("next_vector", "fsdp"),
        ("next_vector", "tensor"),
        ("next_vector", "sequence"),
      ]
    ),
  ],
)
def test_muon_goes_on_every_mesh_where_it_goes_on_one_device(stage, mesh):
  found = _after_five_steps(stage, _MESHES[mesh])
  jax.tree_util.tree_map_with_path(
    lambda path, a, b: _assert_close(a, b, path),
    found,
    _muon_on_one_device(stage),
  )


def _assert_close(found, expected, path):
  assert relative_error(found, expected) < 1e-5, path


@pytest.mark.parametrize(
  "mesh",
  [
    "cube",
    pytest.param("fsdp", marks=_slow),
    pytest.param("tensor", marks=_slow),
  ],
)
def test_iterations_of_muon_exchange_nothing(mesh):
  config, program = _program(
    "next_vector", _MESHES[mesh], optimizer=OptimizerConfig(name="muon")
  )
  axes = param_axes(build_model(config.model))
  optimizer = make_optimizer(config, axes)
  shapes = program.shapes
  places = jax.tree.map(lambda x: x.sharding, shapes)
  update = jax.jit(
    optimizer.update, out_shardings=(places.params, places.optimizer_state)
  )
  with jax.set_mesh(program.mesh):
    lowered = update.lower(shapes.params, shapes.optimizer_state, shapes.params)
    text = lowered.compile().as_text()
  exchanges = re.findall(
    r"= (.*) (all-gather|all-reduce|all-to-all|reduce-scatter"
    r"|collective-permute)(?:-start)?\((.*)",
    text,
  )
  by_us = lambda rest: "/shard_map/" in rest
  kinds = collections.Counter(k for _, k, rest in exchanges if by_us(rest))
  # Three shapes of matrices, there and back, by each mesh axis that splits
  # them. Copies along `data` share the work of two shapes, and the results.
  expected = {"all-to-all": 6 if mesh == "fsdp" else 12}
  assert kinds == expected | ({"all-gather": 2} if mesh == "cube" else {})
  # Beside that, the kernel that reads a chunk becomes K matrices and one again,
  # and the norm of the gradient is added up.
  others = collections.Counter(k for _, k, rest in exchanges if not by_us(rest))
  assert set(others) <= {"all-to-all", "collective-permute", "all-reduce"}
  assert others["all-to-all"] + others["collective-permute"] <= 5
  sums = [shape for shape, kind, _ in exchanges if kind == "all-reduce"]
  assert all(set(re.findall(r"f32\[(.*?)\]", it)) == {""} for it in sums)


@cached
def _token_program():
  optimizer = OptimizerConfig(
    learning_rate=0.1, num_warmup_steps=0, weight_decay=0.0, clip_norm=1e9
  )
  return _program("token", _ONE, optimizer=optimizer)


def _step(batch):
  """One step from the start: parameters before, state after, and the sums."""
  _, program = _token_program()
  state = program.init()
  before = jax.tree.map(np.array, state.params)  # a view would block donation
  batch = sharding.global_batch(program.mesh, batch, 1)
  after, sums = program.step(state, None, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
  return before, after, jax.device_get(sums)


def test_logged_norms_are_those_of_the_step():
  config, _ = _token_program()
  before, after, sums = _step(tiny.batch(config))
  norm = lambda tree: np.sqrt(
    sum(np.square(np.float64(x)).sum() for x in jax.tree.leaves(tree))
  )
  change = jax.tree.map(lambda a, b: np.float64(a) - b, after.params, before)
  values = compute(sums)
  np.testing.assert_allclose(
    values["update_ratio"], norm(change) / norm(before), rtol=1e-4
  )
  assert (int(after.step), values["learning_rate"]) == (1, np.float32(0.1))


def test_a_batch_without_real_text_moves_nothing():
  config, _ = _token_program()
  batch = tiny.batch(config)
  before, after, sums = _step(
    batch._replace(token_mask=np.zeros_like(batch.token_mask))
  )
  assert sums["loss"].count == 0
  jax.tree.map(np.testing.assert_array_equal, after.params, before)


def test_parameters_start_the_same_on_every_mesh():
  expected = _token_program()[1].init()
  _, program = _program("token", _MESHES["cube"])
  found = program.init()
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  kernel = found.params["backbone"]["layers"]["mlp"]["gate"]["kernel"]
  assert tuple(kernel.sharding.spec) == (None, "fsdp", "tensor")
  moment = found.optimizer_state[1][0].mu
  moment = moment["backbone"]["layers"]["mlp"]["gate"]["kernel"]
  assert moment.sharding == kernel.sharding


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_moments_are_where_their_parameters_are(name):
  _, program = _program(
    "next_vector", _MESHES["cube"], optimizer=OptimizerConfig(name=name)
  )
  params = {
    jax.tree_util.keystr(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(program.shapes.params)
  }
  moments = collections.Counter()
  for path, leaf in jax.tree_util.tree_leaves_with_path(
    program.shapes.optimizer_state
  ):
    where = jax.tree_util.keystr(path)
    if leaf.shape == ():
      assert leaf.sharding.is_fully_replicated
      continue
    owner = max((it for it in params if where.endswith(it)), key=len)
    assert leaf.shape == params[owner].shape
    assert leaf.sharding == params[owner].sharding, where
    moments[owner] += 1
  assert set(moments) == set(params)
  takes_one = {owner for owner, count in moments.items() if count == 1}
  matrix = "['backbone']['layers']['mlp']['gate']['kernel']"
  assert (matrix in takes_one) == (name == "muon")


@pytest.mark.slow
def test_no_device_holds_the_activations_of_the_whole_batch():
  config, program = _program("next_vector", _MESHES["fsdp"], batch_size=16)
  batch = sharding.global_batch(program.mesh, tiny.batch(config), 1)
  frozen = _frozen(config, program.mesh)
  with jax.set_mesh(program.mesh):
    traced = program.trace(program.shapes, frozen, batch)
    text = traced.lower().compile().as_text()
  assert f"f32[2,8,{config.model.hidden_size}]" in text
  assert f"f32[16,8,{config.model.hidden_size}]" not in text


_LOST = 1000  # the row id of a batch without a finite loss


@cached
def _followed(optimizer, lost, max_norm):
  """The state after 200 batches, two of them lost: skipped, or never seen."""
  config = tiny.experiment(
    "token",
    optimizer=OptimizerConfig(
      name=optimizer, num_warmup_steps=0, max_gradient_norm=max_norm
    ),
  )
  model = build_model(config.model)
  objective = family_of(config.model).objective(config)

  def sometimes(params, frozen, batch, key):
    loss, means = objective(params, frozen, batch, key)
    factor = {"nan": jnp.nan, "spike": 1e6}[lost]
    loss *= jnp.where(batch.row_ids[0] == _LOST, factor, 1.0)
    return loss, {**means, "loss": means["loss"]._replace(total=loss)}

  transformation = make_optimizer(config, param_axes(model))
  step = jax.jit(
    functools.partial(
      train_step, sometimes, transformation, max_gradient_norm=max_norm
    )
  )
  states = {}
  for name in ("skipped", "never seen"):
    state = init_state(model, transformation, seed=0)
    num_skipped = 0
    for i in range(200):
      batch = tiny.batch(config, seed=i)
      if i % 100 == 37:
        if name == "never seen":
          continue
        batch = batch._replace(row_ids=batch.row_ids + np.uint32(_LOST))
      state, means = step(state, None, batch)
      num_skipped += int(means["skipped"].total)
    assert num_skipped == (2 if name == "skipped" else 0)
    states[name] = state
  return states


@pytest.mark.parametrize(
  ("optimizer", "lost", "max_norm"),
  [("adamw", "nan", 0.0), ("adamw", "spike", 1e5), ("muon", "nan", 0.0)],
)
def test_a_lost_batch_changes_what_a_batch_never_seen_changes(
  optimizer, lost, max_norm
):
  states = _followed(optimizer, lost, max_norm)
  skipped, expected = states["skipped"], states["never seen"]
  assert (int(skipped.step), int(expected.step)) == (200, 198)
  jax.tree.map(np.testing.assert_array_equal, skipped.params, expected.params)
  is_count = lambda it: isinstance(it, optax.ScaleByScheduleState)
  pairs = zip(
    jax.tree.leaves(skipped.optimizer_state, is_leaf=is_count),
    jax.tree.leaves(expected.optimizer_state, is_leaf=is_count),
    strict=True,
  )
  for found, wanted in pairs:
    if is_count(found):  # the learning rate belongs to the step
      assert (int(found.count), int(wanted.count)) == (200, 198)
    else:
      np.testing.assert_array_equal(found, wanted)
