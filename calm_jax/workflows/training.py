"""One training run, from a config to a run directory."""

import contextlib
import functools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from calm_jax import config_file, paths
from calm_jax.checkpoint import steps as steps_lib
from calm_jax.checkpoint.checkpointer import Checkpointer
from calm_jax.checkpoint.run_directory import (
  RunDirectory,
  content_hash,
  load_run,
)
from calm_jax.config import AutoencoderConfig, ExperimentConfig, resolve
from calm_jax.data.batch import Batch
from calm_jax.data.pipeline import eval_batches, open_sources, train_batches
from calm_jax.data.store import TokenStore
from calm_jax.data.tokenizer import Tokenizer
from calm_jax.data.tokenizer_base import check_same_tokenizer, hash_parts
from calm_jax.evaluation.positions import select_positions
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.families import costs, family_of
from calm_jax.losses.mean import Mean, compute, merge
from calm_jax.training import processes, sharding
from calm_jax.training.layout import choose_layout
from calm_jax.training.loop import Evaluator, Result, train
from calm_jax.training.memory import device_bytes
from calm_jax.training.metrics import MetricsWriter
from calm_jax.training.progress import Stopwatch
from calm_jax.training.step import Program, state_shapes
from calm_jax.training.trace import TracedSteps
from calm_jax.workflows import initial, teaching
from calm_jax.workflows.terminal import say

# Of the scores taken in training.
_NUM_SAMPLES = 2  # draws a position
_ROWS_AT_ONCE = 8  # a device
_SHOWN_SCORES = (
  *("brier_lm", "brier_lm_stderr", *(f"brier_{n}" for n in range(1, 5))),
  *("token_accuracy", "chunk_accuracy"),
)

EvaluatorsFn = Callable[
  [ExperimentConfig, Mapping[str, TokenStore], Any], Mapping[str, Evaluator]
]


def run_training(
  config: ExperimentConfig,
  workdir: epath.PathLike,
  *,
  initial_run: epath.PathLike | None = None,
  initial_embedding: epath.PathLike | None = None,
  profile: range | None = None,
  evaluators_fn: EvaluatorsFn | None = None,
  allow_change: Collection[str] = (),
  name: str = "training",
) -> Result:
  """Starts the run that a config describes, or goes on with it.

  Args:
    config: as the experiment file and the flags left it.
    workdir: the run directory.
    initial_run: a run whose parameters, and whose autoencoder if the config
      names none, a new run starts from; its optimizer state is not read.
    initial_embedding: a run whose table of input ids alone a new run starts
      from.
    profile: steps to record a trace of, in the directory `profile` of the run.
    evaluators_fn: makes the inline evaluators that go beside the loss on
      held-out rows, from the resolved config, the stores and the frozen
      parameters.
    allow_change: dotted names of fields that may have another value than when
      the run was started; config.json keeps what they were.
    name: of the progress bar.

  Returns:
    The last state and why it is the last.

  Raises:
    ValueError, OSError: if anything does not fit, cannot be read or written.
  """
  stopwatch = Stopwatch()
  config = config_file.check_types(config)
  if profile and profile.start >= config.num_steps:
    raise ValueError(
      f"the steps to profile start at {profile.start} and the run has"
      f" {config.num_steps}; give a start from 0 to {config.num_steps - 1}."
    )
  if config.autoencoder_run and not config.model.needs_autoencoder:
    raise ValueError(
      f"autoencoder_run is {config.autoencoder_run}, and a model of kind"
      f" {config.model.kind!r} has no use for one; leave it out."
    )
  run = RunDirectory(workdir)
  # Asked once, before any process may have written it.
  is_new = processes.first_says(not run.exists())
  is_saved = processes.first_says(bool(steps_lib.list_steps(run.steps)))
  stores = open_sources(config.data)
  tokenizer = next(iter(stores.values())).tokenizer
  autoencoder, frozen = _find_autoencoder(
    config, None if is_new else run, tokenizer
  )
  if autoencoder is None and initial_run is not None:
    autoencoder, frozen = initial.find_autoencoder(config, initial_run)
  found = teaching.find_teacher(config, None if is_new else run, tokenizer)
  if found is not None:
    config.data.teacher_step = found.step
  config = resolve(
    config,
    vocabulary=tokenizer.vocabulary,
    autoencoder=autoencoder,
    teacher=found and found.model,
  )
  if config.num_scored_rows and config.model.predicts:  # not after hours
    select_positions(
      _scoring_settings(config).positions,
      row_length=config.data.row_length,
      chunk_size=config.model.chunk_size,
    )
  given = {"initial_run": initial_run, "initial_embedding": initial_embedding}
  origins = {
    name: str(paths.absolute(path))
    for name, path in given.items()
    if path is not None
  }
  if not is_saved and initial_run is not None:
    initial.check_params(initial_run, config.model, tokenizer)
  if not is_saved and initial_embedding is not None:
    initial.check_embedding(initial_embedding, config.model, tokenizer)
  if is_new:
    run.check_free(tokenizer)
  elif not is_saved:
    _check_origins(run, origins)
  config_file.check_names(config, allow_change, "allow_change")
  changes = {} if is_new else run.check_same(config, allow_change)
  if changes and is_saved:
    _check_same_arrays(run, config, changes)
  # Chosen anew at every start: the config, and config.json, say what was asked.
  devices = jax.devices()
  layout = choose_layout(
    config, len(devices), device_bytes(), sharding.count_slices(devices)
  )
  mesh = sharding.make_mesh(layout.config.mesh)
  program = Program(layout.config, mesh)
  if mesh.size > 1 or layout.memory_bytes:  # else there was nothing to choose
    say(str(layout))
  for note in program.notes:
    say(f"note: {note}")
  hashes = {
    "tokenizer": tokenizer.content_hash,
    "data": hash_parts(*(s.content_hash.encode() for s in stores.values())),
  }
  if frozen is not None:
    hashes["autoencoder"] = content_hash(frozen)
    frozen = sharding.global_copy(mesh, frozen)
  teacher = None
  if config.teacher is not None:
    teacher, hashes["teacher"] = teaching.load_teacher(config, mesh)
  if is_new:
    run.create(config, tokenizer, frozen, origins)
  checkpointer = Checkpointer(
    run,
    hashes=hashes,
    max_checkpoints=config.max_checkpoints,
    keep_interval=config.keep_interval,
  )
  with stopwatch.measure("restore"):
    restored = checkpointer.restore(program.shapes)
  position = restored[1] if restored else None
  start = position["step"] if position else 0
  if config.num_steps < start:
    raise ValueError(
      f"num_steps is {config.num_steps} and {run.path} has done {start} steps"
      f" already; give {start} or more, or another --workdir."
    )
  if profile and profile.stop <= start:  # as when a job is started again
    say(f"note: step {start} is behind the steps to profile.")
  if not is_new and jax.process_index() == 0:
    run.update(config, step=start, changes=changes)
  with stopwatch.measure("compilation"):
    needed = {
      "init": restored is None,
      "step": start < config.num_steps,
      "validate": config.eval_interval and start < config.num_steps,
    }
    program.compile(
      frozen,
      sharding.batch_shapes(config, mesh),
      [name for name, is_needed in needed.items() if is_needed],
    )
    processes.meet("compiled")
    state = restored[0] if restored else program.init()
  if restored is None and initial_run is not None:
    state = state._replace(params=initial.read_params(initial_run, mesh))
  if restored is None and initial_embedding is not None:
    state = state._replace(
      params=initial.with_embedding(state.params, initial_embedding, mesh)
    )
  if position:
    say(f"going on from step {start} in {run.path}.")
  writer = MetricsWriter(
    run.path, start_step=start, is_active=jax.process_index() == 0
  )
  part = sharding.host_slice(mesh)

  def batches(first_step: int) -> Iterator[Batch]:
    read = train_batches(
      config.data,
      chunk_size=config.model.chunk_size,
      start_step=first_step,
      host_index=part.index,
      num_hosts=part.count,
      stores=tuple(stores.values()),
    )
    for step, batch in enumerate(read, start=first_step):
      batch = sharding.global_batch(mesh, batch, part.count)
      yield batch if teacher is None else teacher(batch, step)

  evaluators = {"valid": _validation(config, program, stores, frozen)}
  if config.num_scored_rows:
    evaluators["score"] = _scoring(config, mesh, stores, frozen)
  if evaluators_fn is not None:
    evaluators |= evaluators_fn(config, stores, frozen)
  step_fn = TracedSteps(
    program.step, run.path / "profile", profile or range(0), first_step=start
  )
  try:
    result = train(
      config,
      state,
      frozen,
      step_fn=step_fn,
      batches_fn=batches,
      checkpointer=checkpointer,
      evaluators=evaluators,
      writer=writer,
      stopwatch=stopwatch,
      position=position,
      name=name,
      flops_fn=functools.partial(_flops_per_step, config),
    )
    if result.reason == "data ended" and jax.process_index() == 0:
      run.note_end(config, result.step)
    return result
  finally:
    with contextlib.ExitStack() as closing:  # each, whatever the others raise
      closing.callback(checkpointer.close)
      closing.callback(writer.close)
      closing.callback(step_fn.close)


def _check_same_arrays(
  run: RunDirectory, config: ExperimentConfig, changes: Collection[str]
) -> None:
  """Raises if what is saved cannot be gone on with after the changes."""
  describe = lambda it: jax.tree.map(lambda x: (x.shape, x.dtype), it)
  saved, wanted = map(state_shapes, (run.read_config(), config))
  if describe(saved) != describe(wanted):
    raise ValueError(
      f"with another {', '.join(changes)} there are other parameters or"
      f" moments than those that {run.path} has saved; start anew in another"
      " --workdir (--initial_run takes parameters over, if they are the same)."
    )


def _check_origins(run: RunDirectory, origins: Mapping[str, str]) -> None:
  """Raises unless a start before the first save is repeated as it was."""
  started = run.origins()
  if started is None:  # by an earlier version, which did not say
    return
  for name in sorted(started.keys() | origins.keys()):
    there, now = started.get(name), origins.get(name)
    if there != now:
      raise ValueError(
        f"{run.path} was started {_with_flag(name, there)}, has saved nothing"
        f" yet, and would now start {_with_flag(name, now)}; give what it was"
        " started with, or another --workdir."
      )


def _with_flag(name: str, path: str | None) -> str:
  return f"without --{name}" if path is None else f"with --{name}={path}"


def _flops_per_step(config: ExperimentConfig) -> float:
  """Of the model: three times its forward pass, nothing computed again."""
  parts = costs.training_flops_per_token(
    config.model, config.autoencoder, config.num_chunks
  )
  num_tokens = config.data.batch_size * config.data.row_length
  return sum(parts.values()) * num_tokens


def _find_autoencoder(
  config: ExperimentConfig, run: RunDirectory | None, tokenizer: Tokenizer
) -> tuple[AutoencoderConfig | None, Any]:
  """Config and parameters of the frozen autoencoder, if the model needs one.

  A run that exists has its own copy; the run it came from is read again only
  if the config now names another one.
  """
  if not config.model.needs_autoencoder:
    return None, None
  own, own_params = None, None
  path = config.autoencoder_run
  if run is not None:
    saved = run.read_config()
    if saved.autoencoder is not None:
      own, own_params = (
        saved.autoencoder,
        run.read_autoencoder(saved.autoencoder),
      )
      if path in ("", saved.autoencoder_run):
        return own, own_params
  if not path:
    return None, None  # `resolve` says what is missing
  # Lists of a shared file system differ for seconds.
  source = RunDirectory(path)
  source.read_config()  # says on every process what is wrong with the path
  step = processes.first_finds(lambda: source.find_step(None))
  loaded = load_run(path, step)
  model = loaded.config.model
  if not isinstance(model, AutoencoderConfig):
    raise ValueError(
      f"autoencoder_run {path} is the run of a {model.kind} model; give that"
      " of an autoencoder."
    )
  check_same_tokenizer("the autoencoder", path, loaded.tokenizer, tokenizer)
  if own_params is not None and (
    content_hash(own_params) != content_hash(loaded.params)
  ):
    raise ValueError(
      f"the autoencoder in {path} is not the one that {run.path} was started"
      " with; give another --workdir, or leave out autoencoder_run."
    )
  return model, loaded.params


def _validation(
  config: ExperimentConfig,
  program: Program,
  stores: Mapping[str, TokenStore],
  frozen: Any,
) -> Evaluator:
  """The objective on held-out rows, for each source."""
  part = sharding.host_slice(program.mesh)

  def evaluate(params: Any, step: int) -> dict[str, float]:
    del step
    values = {}
    for prefix, store in _held_out(stores):
      means: dict[str, Mean] = {}
      for batch in eval_batches(
        store,
        "valid",
        row_length=config.data.row_length,
        chunk_size=config.model.chunk_size,
        batch_size=config.data.batch_size,
        num_rows=config.num_eval_rows,
        host_index=part.index,
        num_hosts=part.count,
      ):
        rows = sharding.global_batch(program.mesh, batch, part.count)
        means = merge(
          means, jax.device_get(program.validate(params, frozen, rows))
        )
      values |= {f"{prefix}{key}": it for key, it in compute(means).items()}
    return values

  return evaluate


def _scoring_settings(config: ExperimentConfig) -> PredictionSettings:
  return PredictionSettings(num_samples=_NUM_SAMPLES, seed=config.seed)


def _scoring(
  config: ExperimentConfig,
  mesh: Mesh,
  stores: Mapping[str, TokenStore],
  frozen: Any,
) -> Evaluator:
  """The scores of `launch.evaluate` on a few held-out rows, for each source."""
  scores_fn = family_of(config.model).make_scores_fn(
    config, _scoring_settings(config), mesh
  )
  # As many rows as devices that split rows or parameters, or a multiple.
  unit = mesh.shape["data"] * mesh.shape["fsdp"]
  num_units = min(_ROWS_AT_ONCE, -(-config.num_scored_rows // unit))

  def evaluate(params: Any, step: int) -> dict[str, float]:
    del step
    values = {}
    for prefix, store in _held_out(stores):
      batches = eval_batches(
        store,
        "valid",
        row_length=config.data.row_length,
        chunk_size=config.model.chunk_size,
        batch_size=unit * num_units,
        num_rows=config.num_scored_rows,
      )
      try:
        scores = scores_fn(params, frozen, batches)
      except ValueError as error:  # too little text, which is no end of a run
        say(f"warning: the held-out rows cannot be scored: {error}")
        continue
      for name in _SHOWN_SCORES:
        if name in scores:
          value = scores[name]  # a number, or that it is not resolved
          is_number = isinstance(value, float)
          values[prefix + name] = value if is_number else math.nan
    return values

  return evaluate


def _held_out(
  stores: Mapping[str, TokenStore],
) -> Iterator[tuple[str, TokenStore]]:
  """What has held-out text, each with what its numbers' names begin with."""
  for name, store in stores.items():
    if store.num_tokens("valid"):
      yield (f"{name}/" if len(stores) > 1 else ""), store
