"""One optimisation step, compiled for a mesh."""

import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from calm_jax.config import ExperimentConfig
from calm_jax.data.batch import Batch
from calm_jax.families import Objective, build_model, family_of, param_axes
from calm_jax.kernels.product import gradients_in
from calm_jax.losses.mean import Mean, Means, merge
from calm_jax.randomness import stream_key
from calm_jax.training import sharding
from calm_jax.training.optimizer import make_optimizer, make_schedule
from calm_jax.training.state import TrainState, init_state


def train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  frozen: Any,
  batch: Batch,
  *,
  num_microbatches: int = 1,
  reduce_dtype: str = "float32",
  max_gradient_norm: float = 0.0,
  seed: int = 0,
) -> tuple[TrainState, Means]:
  """Follows the gradient of the mean loss once, if it is sound.

  It is if the loss and the norms of its gradient and of the update are finite,
  and the gradient's not above `max_gradient_norm`. Else parameters and moments
  stay as they are, and only the step goes on, with the learning rate, which
  belongs to it.

  Args:
    objective: of the stage.
    optimizer: from `make_optimizer`.
    state: before the step.
    frozen: parameters that are not trained.
    batch: the global batch.
    num_microbatches: the rows are split into so many, one after another.
    reduce_dtype: of the gradients while they are added up over devices and
      microbatches.
    max_gradient_norm: see above; 0: any that is finite.
    seed: of the noise.

  Returns:
    The state after the step, and the means of what is logged; "skipped" is 1
    where the step was not sound.
  """
  key = stream_key(seed, "train", state.step)
  gradients, means = accumulated_gradients(
    objective,
    state.params,
    frozen,
    batch,
    key,
    num_microbatches,
    reduce_dtype,
  )
  updates, optimizer_state = optimizer.update(
    gradients, state.optimizer_state, state.params
  )
  one = jnp.ones((), jnp.float32)
  norm = optax.tree.norm(gradients)
  update_norm = optax.tree.norm(updates)
  numbers = jnp.stack([means["loss"].total, norm, update_norm])
  is_sound = jnp.all(jnp.isfinite(numbers))
  if max_gradient_norm:
    is_sound &= norm <= max_gradient_norm
  ratio = update_norm / optax.tree.norm(state.params)
  means = {
    **means,
    "gradient_norm": Mean(norm, one),
    "update_ratio": Mean(ratio, one),
    "skipped": Mean(1 - is_sound.astype(jnp.float32), one),
  }
  params = optax.apply_updates(state.params, updates)
  params, optimizer_state = _choose(
    is_sound,
    (params, optimizer_state),
    (state.params, state.optimizer_state),
  )
  return TrainState(state.step + 1, params, optimizer_state), means


def _choose(is_sound: jax.Array, new: Any, old: Any) -> Any:
  """The new arrays or the old ones; counts of a schedule are always new."""
  is_count = lambda it: isinstance(it, optax.ScaleByScheduleState)

  def choose(new: Any, old: Any) -> Any:
    if is_count(new):
      return new
    return jnp.where(is_sound, new, old)

  return jax.tree.map(choose, new, old, is_leaf=is_count)


def accumulated_gradients(
  objective: Objective,
  params: Any,
  frozen: Any,
  batch: Batch,
  key: jax.Array,
  num_microbatches: int,
  reduce_dtype: str = "float32",
) -> tuple[Any, Means]:
  """Gradient of the mean loss over the whole batch, and the means.

  Sums of gradients are added in `reduce_dtype` and divided once, in float32,
  so microbatches with different numbers of counted chunks give what one batch
  gives.
  """

  @gradients_in(reduce_dtype)
  def grad_fn(*arguments: Any) -> Any:
    return jax.value_and_grad(objective, has_aux=True)(*arguments)

  def add(carry: Any, microbatch: Batch) -> tuple[Any, None]:
    total, means = carry
    (_, new_means), gradients = grad_fn(params, frozen, microbatch, key)
    return (
      jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, gradients),
      merge(means, new_means),
    ), None

  if num_microbatches == 1:
    (_, means), total = grad_fn(params, frozen, batch, key)
  else:
    microbatches = jax.tree.map(
      functools.partial(sharding.split_rows, num_microbatches), batch
    )
    first = jax.tree.map(lambda x: x[0], microbatches)
    (_, shapes), _ = jax.eval_shape(grad_fn, params, frozen, first, key)
    zeros = (
      jax.tree.map(lambda x: jnp.zeros(x.shape, reduce_dtype), params),
      jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
    )
    (total, means), _ = jax.lax.scan(add, zeros, microbatches)
  count = jnp.maximum(means["loss"].count, 1)
  return jax.tree.map(lambda x: x.astype(jnp.float32) / count, total), means


def state_shapes(config: ExperimentConfig) -> TrainState:
  """Shapes and dtypes of a run's state; its config is resolved."""
  return jax.eval_shape(_init_fn(config))


def _init_fn(config: ExperimentConfig) -> Callable[[], TrainState]:
  model = build_model(config.model)
  optimizer = make_optimizer(config, param_axes(model))
  return functools.partial(init_state, model, optimizer, config.seed)


class Program:
  """A run compiled for a mesh: how it starts, and its step.

  Attributes:
    mesh: the devices.
    shapes: a `TrainState` of shapes and dtypes, each with its sharding; what a
      checkpoint is restored into, and what a compiler can be asked about.
    notes: arrays that are not split as the table says.
  """

  def __init__(self, config: ExperimentConfig, mesh: Mesh):
    """Plans a run.

    Args:
      config: resolved; without a number of microbatches it is 1.
      mesh: from `sharding.make_mesh`.

    Raises:
      ValueError: if batch or model do not fit the mesh.
    """
    sharding.check_fit(config, mesh)
    self.mesh = mesh
    axes = param_axes(build_model(config.model))
    optimizer = make_optimizer(config, axes)
    init = _init_fn(config)
    shapes = jax.eval_shape(init)
    params, self.notes = sharding.place_params(mesh, shapes.params, axes)
    whole = sharding.replicated(mesh)
    shardings = TrainState(
      step=whole,
      params=params,
      optimizer_state=sharding.place_moments(
        mesh, shapes.optimizer_state, params
      ),
    )
    self.shapes = jax.tree.map(
      lambda shape, place: jax.ShapeDtypeStruct(
        shape.shape, shape.dtype, sharding=place
      ),
      shapes,
      shardings,
    )
    self._init = jax.jit(init, out_shardings=shardings)
    family = family_of(config.model)
    objective = family.objective(config)
    logged_means = family.logged_means(config)
    schedule = make_schedule(config.optimizer, config.num_steps)

    def step(
      state: TrainState, frozen: Any, batch: Batch
    ) -> tuple[TrainState, Means]:
      new_state, means = train_step(
        objective,
        optimizer,
        state,
        frozen,
        batch,
        num_microbatches=max(config.num_microbatches, 1),
        reduce_dtype=config.gradient_reduce_dtype,
        max_gradient_norm=config.optimizer.max_gradient_norm,
        seed=config.seed,
      )
      one = jnp.ones((), jnp.float32)
      means = {**means, "learning_rate": Mean(schedule(state.step), one)}
      if logged_means:
        is_logged = config.is_logged(new_state.step)
        key = stream_key(config.seed, "logged", state.step)
        found = _means_if(is_logged, logged_means, state.params, batch, key)
        means |= found
      return new_state, means

    def validate(params: Any, frozen: Any, batch: Batch) -> Means:
      key = stream_key(config.seed, "validation")
      means = objective(params, frozen, batch, key)[1]
      if not logged_means:
        return means
      key = stream_key(config.seed, "logged validation")
      return {**means, **logged_means(params, batch, key)}

    self._step = jax.jit(
      step, donate_argnums=0, out_shardings=(shardings, whole)
    )
    self._validate = jax.jit(validate, out_shardings=whole)
    self._compiled: dict[str, jax.stages.Compiled] = {}

  def init(self) -> TrainState:
    """The state before the first step."""
    with jax.set_mesh(self.mesh):
      return self._compiled.get("init", self._init)()

  def step(
    self, state: TrainState, frozen: Any, batch: Batch
  ) -> tuple[TrainState, Means]:
    """One step; `state` is given up. See `train_step`."""
    with jax.set_mesh(self.mesh):
      return self._compiled.get("step", self._step)(state, frozen, batch)

  def validate(self, params: Any, frozen: Any, batch: Batch) -> Means:
    """The objective's means, with the same noise at every step."""
    with jax.set_mesh(self.mesh):
      validate = self._compiled.get("validate", self._validate)
      return validate(params, frozen, batch)

  def compile(
    self, frozen: Any, batch: Batch, names: Collection[str] = ("step",)
  ) -> None:
    """Compiles programs now rather than when they are first called.

    Args:
      frozen: parameters that are not trained, or their shapes with shardings.
      batch: of `sharding.batch_shapes`; the only one that fits from now on.
      names: of "init", "step" and "validate".
    """
    text = batch._replace(targets=None)  # as all held-out rows are
    with jax.set_mesh(self.mesh):
      programs = {
        "init": (self._init, ()),
        "step": (self._step, (self.shapes, frozen, batch)),
        "validate": (self._validate, (self.shapes.params, frozen, text)),
      }
      for name in names:
        function, arguments = programs[name]
        self._compiled[name] = function.lower(*arguments).compile()

  def trace(
    self, state: TrainState, frozen: Any, batch: Batch
  ) -> jax.stages.Traced:
    """The step of arrays, or of shapes with shardings, before any compiler.

    Lower it under `jax.set_mesh(self.mesh)`.
    """
    with jax.set_mesh(self.mesh):
      return self._step.trace(state, frozen, batch)


def _means_if(condition: jax.Array, means_fn: Any, *arguments: Any) -> Means:
  """Its means where the condition holds, else means over nothing."""
  shapes = jax.eval_shape(means_fn, *arguments)
  zeros = lambda *_: jax.tree.map(
    lambda it: jnp.zeros(it.shape, it.dtype), shapes
  )
  return jax.lax.cond(condition, means_fn, zeros, *arguments)
