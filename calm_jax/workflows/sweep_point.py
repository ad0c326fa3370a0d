"""One point of a sweep: its training, its scores, and what is shown of it."""

import dataclasses
import sys
from typing import Any

import jax
import tqdm
from etils import epath
from jax.sharding import Mesh

from calm_jax.checkpoint.run_directory import (
  LoadedRun,
  OtherConfigError,
  RunDirectory,
  load_run,
)
from calm_jax.config import CHOSEN, ExperimentConfig
from calm_jax.data.pipeline import eval_batches
from calm_jax.data.store import TokenStore
from calm_jax.evaluation.prediction import (
  PredictionSettings,
  prediction_columns,
)
from calm_jax.evaluation.temperature_curve import batch_method_columns
from calm_jax.evaluation.windows import COUNT
from calm_jax.families import family_of
from calm_jax.runs.continuation import TextGenerator
from calm_jax.runs.placement import mesh_for
from calm_jax.runs.runner import evaluate_run
from calm_jax.sampling.rows import num_parts
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.training import sharding
from calm_jax.training.memory import device_bytes
from calm_jax.workflows.training import run_training

_NUM_CANDIDATES = 100  # N_b, for what is shown
_TEMPERATURE = 0.5  # of the continuations
_TEMPERATURES = (1.0, 0.75, 0.5)  # of the trade-off
_NUM_ROWS = 16  # of the trade-off
_BATCH_SIZE = 4  # of them on a device
_MAX_LENGTH = 128  # tokens of a prompt, and of what follows it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
  """How every point of a sweep is scored."""

  positions: str = "grid:8"  # one grid for all K and the token model
  num_samples: int = 16  # S, draws a position
  num_rows: int = 256  # held-out windows
  seed: int = 0

  def __post_init__(self):
    if self.num_rows < 2:
      raise ValueError(
        f"num_rows is {self.num_rows}; an error needs at least 2 windows."
      )
    self.settings()

  def settings(self, predicts: bool = True) -> PredictionSettings:
    """Of a model that predicts, or of an autoencoder, which has no places."""
    if not predicts:
      return PredictionSettings(seed=self.seed)
    return PredictionSettings(
      num_samples=self.num_samples, positions=self.positions, seed=self.seed
    )


def train_point(
  config: ExperimentConfig, directory: epath.Path, name: str
) -> bool:
  """Trains to the end, going on where an earlier process stopped.

  Returns:
    Whether it came to the end; False: a signal stopped it.

  Raises:
    ValueError, OSError: as training does, and if the directory holds a run
      that was begun for another number of steps: its learning rate is not
      that of the point.
  """
  run = RunDirectory(directory)
  if run.exists():
    begun = run.read_config().num_steps
    if begun != config.num_steps:
      raise ValueError(
        f"{directory} holds a run that was begun for {begun} steps, and point"
        f" {name!r} has {config.num_steps}; move it away, or give another"
        " --workdir."
      )
  try:
    return run_training(config, directory, name=name).reason != "stopped"
  except OtherConfigError as error:
    # A point is that of the sweep file, so that no change can be allowed.
    raise ValueError(
      f"{error.what}. Move it away, or give another --workdir."
    ) from error


def score_point(
  config: ExperimentConfig,
  directory: epath.Path,
  scoring: Scoring,
  is_shown: bool,
) -> dict[str, Any]:
  """Scores the last step of a finished run, on all devices that trained it.

  Args:
    config: of the point.
    directory: of the run.
    scoring: what is measured.
    is_shown: whether a page shows continuations and trade-off of this point.

  Returns:
    What `evaluate_run` gives, and `samples` and `trade_off` where shown.
  """
  is_silent = jax.process_index() > 0
  run = load_run(directory, mesh=_mesh(config), is_rounded=True)
  with tqdm.tqdm(
    desc="scoring", unit="row", mininterval=30, delay=1, disable=is_silent
  ) as bar:
    result = evaluate_run(
      run,
      config.data.path,
      scoring.settings(config.model.predicts),
      num_rows=scoring.num_rows,
      rows_fn=bar.update,
    )
  if is_shown:
    try:
      result |= _shown(run, config.data.path, scoring)
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error):
        raise
      print(
        f"warning: no text of {directory.name} is shown: there is too little"
        " memory for it.",
        file=sys.stderr,
      )
  return result


def _shown(run: LoadedRun, data: str, scoring: Scoring) -> dict[str, Any]:
  """What a page shows of a point."""
  store = TokenStore(data)
  return {
    "samples": _samples(run, store),
    "trade_off": _trade_off(run, store, scoring),
  }


def _mesh(config: ExperimentConfig) -> Mesh | None:
  """Splits parameters as the config or their size says; None: one device."""
  num_devices = len(jax.devices())
  if num_devices == 1:
    return None
  given = dataclasses.replace(config.mesh, data=CHOSEN, sequence=1)
  return sharding.make_mesh(
    mesh_for([config], num_devices, device_bytes(), given)
  )


def _samples(run: LoadedRun, store: TokenStore) -> list[dict[str, str]]:
  """Continues the beginnings of three held-out stretches of text."""
  length = min(_MAX_LENGTH, run.config.data.row_length // 4)
  starts = [store.num_tokens("valid") * part // 7 for part in (1, 3, 5)]
  prompts = [
    run.tokenizer.decode(store.read("valid", start, start + length))
    for start in starts
  ]
  settings = SamplingSettings(
    temperature=_TEMPERATURE, num_candidates=_NUM_CANDIDATES
  )
  found = TextGenerator(run, settings).continue_prompts(
    prompts, num_tokens=length
  )
  return [
    {"prompt": prompt, "text": it[0].text}
    for prompt, it in zip(prompts, found, strict=True)
  ]


def _trade_off(
  run: LoadedRun, store: TokenStore, scoring: Scoring
) -> list[dict[str, Any]]:
  """Accuracy and collision of the next token at each temperature."""
  config = run.config
  family = family_of(config.model)
  sampler_fn = family.sampler_fn(config)
  batches = list(
    eval_batches(
      store,
      "valid",
      row_length=config.data.row_length,
      chunk_size=config.model.chunk_size,
      batch_size=_BATCH_SIZE * num_parts(run.mesh),
      num_rows=_NUM_ROWS,
    )
  )
  if not config.model.has_likelihoods:
    found = batch_method_columns(
      sampler_fn,
      family.bind_params(run.params, run.autoencoder),
      batches,
      temperatures=_TEMPERATURES,
      candidate_counts=(_NUM_CANDIDATES,),
      positions=scoring.positions,
      seed=scoring.seed,
      mesh=run.mesh,
    )
    columns = [found[t, _NUM_CANDIDATES] for t in _TEMPERATURES]
  else:
    columns = [
      prediction_columns(
        sampler_fn,
        family.bind_params(
          run.params, run.autoencoder, temperature=temperature
        ),
        batches,
        scoring.settings(),
        mesh=run.mesh,
      )
      for temperature in _TEMPERATURES
    ]
  return [
    {
      "label": f"T = {temperature:g}",
      "accuracy": float(sums["accuracy_1"].sum() / sums[COUNT].sum()),
      "collision": float(sums["collision_1"].sum() / sums[COUNT].sum()),
    }
    for temperature, sums in zip(_TEMPERATURES, columns, strict=True)
  ]
