"""A run directory: all that evaluation, generation and a restart need.

    config.json     with its format version
    tokenizer/      that of the data
    autoencoder/    frozen parameters, in runs of a next-vector model
    steps/N/        params, optimizer, position
    metrics.jsonl   one row a logged step; tensorboard/ has the same

Evaluation and generation read nothing outside it, and a restart only the data
and the teacher's run that are given, so it can be moved.
"""

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, SingleDeviceSharding

from calm_jax import config_file, paths
from calm_jax.checkpoint import orbax_noise
from calm_jax.checkpoint import steps as steps_lib
from calm_jax.config import AutoencoderConfig, ExperimentConfig
from calm_jax.data import store_layout
from calm_jax.data.tokenizer import Tokenizer, load_tokenizer
from calm_jax.families import Model, build_model, param_axes, param_shapes
from calm_jax.families.rounding import round_run
from calm_jax.training import processes, sharding

# What may differ when a run goes on: it changes where the run stops, what it
# writes or how fast it is, and its numbers by rounding at most.
_MAY_CHANGE = (
  "num_steps",  # with a schedule that does not depend on it
  "num_microbatches",
  "gradient_reduce_dtype",
  "max_skipped_steps",
  "log_interval",
  "save_interval",
  "eval_interval",
  "num_eval_rows",
  "num_scored_rows",
  "max_checkpoints",
  "keep_interval",
  "mesh.data",
  "mesh.fsdp",
  "mesh.tensor",
  "mesh.sequence",
  "autoencoder_run",  # its hash is compared instead
  "data.path",  # likewise
  "data.teacher_run",  # likewise
  "data.num_prefetch_batches",
  "model.remat",
  "model.attention_implementation",
  "model.vocabulary_implementation",
  "model.vocabulary_block_mib",
  "model.head.implementation",
  "autoencoder.vocabulary_implementation",
  "autoencoder.vocabulary_block_mib",
  "autoencoder.remat",
  "teacher.vocabulary_implementation",
  "teacher.vocabulary_block_mib",
  "teacher.attention_implementation",
  "teacher.remat",
)


class OtherConfigError(ValueError):
  """A run directory holds a run of another config.

  Attributes:
    what: which, without what to do.
  """

  def __init__(self, what: str, advice: str):
    super().__init__(f"{what}. {advice}")
    self.what = what


class RunDirectory:
  """The files of a run, by name."""

  def __init__(self, path: epath.PathLike):
    self.path = paths.absolute(path)
    self.config_file = self.path / "config.json"
    self.tokenizer = self.path / "tokenizer"
    self.autoencoder = self.path / "autoencoder"
    self.steps = self.path / "steps"

  def exists(self) -> bool:
    """Whether a run was started here."""
    return self.config_file.exists()

  def check_free(self, tokenizer: Tokenizer) -> None:
    """Raises unless a new run can be put here without spoiling what is there.

    Args:
      tokenizer: that of the run's data; a start that was killed has left it.

    Raises:
      ValueError: if there is something else of its names.
    """
    hint = "give another --workdir."
    if steps_lib.list_steps(self.steps):
      raise ValueError(
        f"{self.path} has saved steps and no config.json; restore it, or {hint}"
      )
    if store_layout.is_prepared(self.path):
      raise ValueError(f"{self.path} holds prepared data; {hint}")
    try:
      found = load_tokenizer(self.tokenizer).content_hash
    except (OSError, ValueError):  # none, or half of one
      return
    if found != tokenizer.content_hash:
      raise ValueError(
        f"{self.tokenizer} is another tokenizer than that of the data; {hint}"
      )

  def create(
    self,
    config: ExperimentConfig,
    tokenizer: Tokenizer,
    autoencoder: Any,
    origins: Mapping[str, str] | None = None,
  ) -> None:
    """Writes all that does not change; config.json, which makes it a run, last.

    All processes call it, and process 0 writes.

    Args:
      config: resolved.
      tokenizer: that of the data.
      autoencoder: frozen parameters, or None; with several processes, arrays
        that all of them hold.
      origins: paths of the runs that it starts from, by flag.

    Raises:
      OSError: if the directory cannot be written.
    """
    orbax_noise.silence()
    is_writer = jax.process_index() == 0
    try:
      if is_writer:
        self.path.mkdir(parents=True, exist_ok=True)
        tokenizer.save(self.tokenizer)
      if autoencoder is not None:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
          checkpointer.save(
            self.autoencoder,
            args=ocp.args.StandardSave(autoencoder),
            force=True,
          )
      if is_writer:
        config_file.write(self.config_file, config, origins=origins or {})
    except Exception as error:  # Orbax raises whatever its writers raise
      raise OSError(
        f"cannot write the run directory {self.path}"
        f" ({orbax_noise.reason(error)}); give another directory as --workdir."
      ) from error

  def read_config(self) -> ExperimentConfig:
    """Reads config.json.

    Raises:
      OSError: if the directory does not exist.
      ValueError: if it is not a run directory, or its config cannot be read.
    """
    if not self.path.exists():
      raise FileNotFoundError(
        f"there is no directory {self.path}; give the --workdir of a run."
      )
    if not self.exists():
      raise ValueError(
        f"{self.path} is not a run directory: it has no config.json."
      )
    return config_file.read(self.config_file, ExperimentConfig)

  def find_step(self, step: int | None) -> int:
    """The step that is meant: the given one, or the newest for None.

    Raises:
      FileNotFoundError: if there is no such step.
      ValueError: if nothing is saved.
    """
    saved = steps_lib.list_steps(self.steps)
    if not saved:
      raise ValueError(f"{self.path} has no checkpoint: nothing is saved yet.")
    if step is not None and step not in saved:
      raise FileNotFoundError(
        f"step {step} is not in {self.path}; saved are"
        f" {', '.join(map(str, saved))}."
      )
    return saved[-1] if step is None else step

  def check_same(
    self, config: ExperimentConfig, allow_change: Collection[str] = ()
  ) -> dict[str, tuple[Any, Any]]:
    """Compares the run here with the one that a config means.

    Args:
      config: resolved.
      allow_change: dotted names of fields that may differ beside those that
        always may.

    Returns:
      Old and new value of the fields allowed to differ that do.

    Raises:
      OtherConfigError: if another field differs.
    """
    saved = self.read_config()
    config = copy.deepcopy(config)
    pairs = zip(config.data.sources, saved.data.sources, strict=False)
    for source, saved_source in pairs:
      source.path = saved_source.path  # the data's hash is compared instead
    found = config_file.differences(saved, config)
    changes = {name: it for name, it in found.items() if name in allow_change}
    wrong = {
      name: f"{name} (there {_short(there)}, now {_short(now)})"
      for name, (there, now) in found.items()
      if name not in _MAY_CHANGE and name not in changes
    }
    if wrong:
      raise OtherConfigError(
        f"{self.path} holds a run of another config; it differs in"
        f" {', '.join(wrong.values())}",
        "Give another --workdir, the same config, or"
        f" --allow_change={','.join(wrong)}.",
      )
    schedule = config.optimizer.schedule
    is_rescaled = "num_steps" in found and schedule != "constant"
    if is_rescaled and "num_steps" not in changes:
      there, now = found["num_steps"]
      raise OtherConfigError(
        f"{self.path} was started with num_steps {there}, and with {now} its"
        f" {schedule} schedule would give the steps that follow other rates",
        f"Keep {there}; or go on from its parameters in another --workdir with"
        f" --initial_run={self.path}; or, for that jump of the rate,"
        " --allow_change=num_steps.",
      )
    return changes

  def history(self) -> list[dict[str, Any]]:
    """What was changed in the config, and at which step."""
    return config_file.read_beside(self.config_file, "history") or []

  def origins(self) -> dict[str, str] | None:
    """Paths of the runs that it started from, by flag; None: not known."""
    return config_file.read_beside(self.config_file, "origins")

  def update(
    self,
    config: ExperimentConfig,
    *,
    step: int,
    changes: Mapping[str, tuple[Any, Any]],
  ) -> None:
    """Writes the config of a run that goes on.

    Args:
      config: of which `check_same` was asked.
      step: from which the run goes on.
      changes: as `check_same` found them; what stood there before is kept.
    """
    new = [
      {"step": step, "field": name, "from": there, "to": now}
      for name, (there, now) in changes.items()
    ]
    self._rewrite(config, new)

  def note_end(self, config: ExperimentConfig, step: int) -> None:
    """Writes into config.json that the data ended before `num_steps`."""
    self._rewrite(config, last_step=step)

  def _rewrite(
    self,
    config: ExperimentConfig,
    changes: Sequence[Any] = (),
    last_step: int | None = None,
  ) -> None:
    """Writes the config, and keeps what stands beside it in the file."""
    config_file.write(
      self.config_file,
      config,
      history=[*self.history(), *changes] or None,
      origins=self.origins(),
      last_step=last_step,
    )

  def last_step(self) -> int:
    """The step that the run ends with, as far as that is known."""
    ended = config_file.read_beside(self.config_file, "last_step")
    return self.read_config().num_steps if ended is None else ended

  def read_autoencoder(
    self, config: AutoencoderConfig, mesh: Mesh | None = None
  ) -> Any:
    """Reads the frozen parameters.

    Args:
      config: of the autoencoder.
      mesh: every device of it gets a copy; None: the first local device.

    Returns:
      Nested dict of float32 arrays.

    Raises:
      ValueError: if they are missing or damaged.
    """
    shapes = _with_shardings(
      param_shapes(build_model(config)),
      _first_device() if mesh is None else sharding.replicated(mesh),
    )
    try:
      return steps_lib.read_tree(self.autoencoder, shapes)
    except Exception as error:  # Orbax raises whatever its parsers raise
      raise ValueError(
        f"the frozen autoencoder in {self.autoencoder} cannot be read"
        f" ({orbax_noise.reason(error)}); copy it from another copy of the run."
      ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedRun:
  """One step of a run, ready for evaluation or generation."""

  path: epath.Path
  config: ExperimentConfig
  params: Any  # of the model, nested dict of arrays
  autoencoder: Any  # frozen parameters of a next-vector run, else None
  tokenizer: Tokenizer
  step: int
  hashes: dict[str, str]  # sha256 of "tokenizer", "data" and "autoencoder"
  mesh: Mesh | None = None  # of the parameters; None: they are on one device

  @property
  def latent_model(self) -> tuple[AutoencoderConfig, Any]:
    """Config and parameters of its autoencoder, whichever part that has.

    Raises:
      ValueError: if the model knows no latents.
    """
    model = self.config.model
    if model.needs_autoencoder:
      return self.config.autoencoder, self.autoencoder
    if isinstance(model, AutoencoderConfig):
      return model, self.params
    raise ValueError(
      f"the run {self.path} holds a {model.kind} model, which has no latents;"
      " load an autoencoder or a next-vector model."
    )


def load_run(
  path: epath.PathLike,
  step: int | None = None,
  mesh: Mesh | None = None,
  *,
  is_rounded: bool = False,
  dtype: str | None = None,
) -> LoadedRun:
  """Loads parameters and tokenizer of a run, not its optimizer state.

  Args:
    path: the run directory.
    step: one that was saved; None: the newest.
    mesh: splits the parameters over its devices, and all processes of it call
      this together; None: the first local device.
    is_rounded: keeps what a bfloat16 model only reads in bfloat16 so, see
      `round_params`: half the memory and the same results, but no parameters to
      go on training with.
    dtype: computes in it, float32 or bfloat16; None: as in training.

  Returns:
    The run at that step.

  Raises:
    OSError: if there is no such directory or step.
    ValueError: if it is not a run directory, has no saved step, or is damaged;
      if there is no such dtype.
  """
  run = RunDirectory(path)
  config = run.read_config()
  if dtype is not None:
    config = _computing_in(dtype, config)
  if mesh is None:
    step = run.find_step(step)
  else:
    sharding.check_model_fits(config.model, mesh)
    # Lists of a shared file system differ for seconds.
    step = processes.first_finds(functools.partial(run.find_step, step))
  shapes = _placed_shapes(build_model(config.model), mesh)

  def read():
    return (
      steps_lib.read_position(run.steps, step),
      steps_lib.read_arrays(run.steps, step, steps_lib.PARAMS, shapes),
      load_tokenizer(run.tokenizer),
    )

  try:
    found = read() if mesh is None else processes.together(read)
    position, params, tokenizer = found
    steps_lib.check_arrays(run.steps, step, steps_lib.PARAMS, params, position)
  except steps_lib.DamagedStepError as error:
    saved = steps_lib.list_steps(run.steps)
    others = [other for other in saved if other != step]
    hint = f" Read --step={others[-1]} instead." if others else ""
    raise steps_lib.DamagedStepError(f"{error}{hint}") from error
  hashes = position["hashes"]
  _check_hash(run.tokenizer, tokenizer.content_hash, hashes["tokenizer"])
  autoencoder = None
  if config.model.needs_autoencoder:
    autoencoder = run.read_autoencoder(config.autoencoder, mesh)
    found = content_hash(autoencoder)
    _check_hash(run.autoencoder, found, hashes["autoencoder"])
  if is_rounded:
    params, autoencoder = round_run(config, params, autoencoder)
  return LoadedRun(
    path=run.path,
    config=config,
    params=params,
    autoencoder=autoencoder,
    tokenizer=tokenizer,
    step=step,
    hashes=hashes,
    mesh=mesh,
  )


def _computing_in(dtype: str, config: ExperimentConfig) -> ExperimentConfig:
  """The config with model and autoencoder in another dtype."""
  model = dataclasses.replace(config.model, dtype=dtype)
  autoencoder = config.autoencoder
  if autoencoder is not None:
    autoencoder = dataclasses.replace(autoencoder, dtype=dtype)
  return dataclasses.replace(config, model=model, autoencoder=autoencoder)


def content_hash(params: Any) -> str:
  """sha256 over names, shapes, dtypes and bytes of a tree of arrays."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    array = np.asarray(leaf)
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    digest.update(f"{name} {array.shape} {array.dtype}\n".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:60]}…"


def _check_hash(path: epath.Path, found: str, expected: str) -> None:
  if found != expected:
    raise ValueError(
      f"{path} is not what the run was trained with: its hash is"
      f" {found[:12]}, and the checkpoint was saved with {expected[:12]}."
    )


def _placed_shapes(model: Model, mesh: Mesh | None) -> Any:
  shapes = param_shapes(model)
  if mesh is None:
    return _with_shardings(shapes, _first_device())
  placement = sharding.place_params(mesh, shapes, param_axes(model))
  return jax.tree.map(_with_shardings, shapes, placement.shardings)


def _with_shardings(shapes: Any, place: jax.sharding.Sharding) -> Any:
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes
  )


def _first_device() -> SingleDeviceSharding:
  return SingleDeviceSharding(jax.local_devices()[0])
