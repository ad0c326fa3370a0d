"""The points of a sweep, and where their results are.

WORKDIR/NAME/               the run directory of a point
WORKDIR/NAME/result.json    its scores; once it is there, it is finished
WORKDIR/NAME/error.txt      why it failed, until it is finished
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Collection
from typing import Any

import jax
import tqdm
from etils import epath

from calm_jax import config_file, paths
from calm_jax.config import ExperimentConfig, MeshConfig, resolve
from calm_jax.data.store import TokenStore
from calm_jax.evaluation.positions import select_positions
from calm_jax.evaluation.result_file import read_result
from calm_jax.families import costs
from calm_jax.workflows.sweep_file import Points
from calm_jax.workflows.sweep_point import Scoring

# What changes no number of a result.
_FREE = (
  "log_interval",
  "save_interval",
  "eval_interval",
  "num_eval_rows",
  "num_scored_rows",
  "max_checkpoints",
  "keep_interval",
)


class Sweep:
  """The points, checked before any work, and where their results are."""

  def __init__(
    self,
    points: Points,
    workdir: epath.PathLike,
    data: epath.PathLike,
    scoring: Scoring,
  ):
    """Resolves every config against the data and its autoencoder.

    Args:
      points: see `read_sweep_file`.
      workdir: gets a directory for each point.
      data: a prepared directory.
      scoring: of all points.

    Raises:
      OSError: if there is no such data.
      ValueError: if a config is impossible, or cannot be scored so.
    """
    store = TokenStore(data)
    self.workdir = paths.expanded(workdir)
    self.scoring = scoring
    self.points: Points = {}
    self._data_hash = store.content_hash
    self.bytes_per_token = store.num_bytes("train") / store.num_tokens("train")
    for name, config in points.items():
      try:
        self.points[name] = self._resolve(config, store)
      except ValueError as error:
        raise ValueError(f"point {name!r}: {error}") from error
    self.shown = _largest_of_each_kind(self.points)

  def directory(self, name: str) -> epath.Path:
    return self.workdir / name

  def result_file(self, name: str) -> epath.Path:
    return self.directory(name) / "result.json"

  def fingerprint(self, name: str) -> dict[str, str]:
    """What the numbers of a point depend on, each as a hash."""
    config = copy.deepcopy(self.points[name])
    config.data.path = ""  # its content counts
    # Where it runs changes a result by rounding at most.
    config.mesh = MeshConfig(data=-1, fsdp=1, tensor=1, sequence=1)
    config.num_microbatches = 1
    for field in dataclasses.fields(config):
      if field.name in _FREE:
        setattr(config, field.name, field.default)
    fingerprint = {
      "config": _hash(config_file.to_dict(config, with_absent=False)),
      "data": self._data_hash,
      "scoring": _hash(dataclasses.asdict(self.scoring)),
    }
    runs = {
      "autoencoder": config.autoencoder_run,
      "teacher": config.data.teacher_run,
    }
    for part, needed in runs.items():
      if needed:
        fingerprint[part] = self.fingerprint(needed)["config"]
    return fingerprint

  def result(self, name: str) -> dict[str, Any] | None:
    """The result of a finished point; None where there is none yet.

    Raises:
      ValueError: if the file is damaged, or is not the result of this point.
    """
    path = self.result_file(name)
    if not path.exists():
      return None
    result = read_result(path)
    found, wanted = result.get("fingerprint"), self.fingerprint(name)
    if found != wanted:
      if not isinstance(found, dict):
        found = {}
      differs = [key for key in wanted if found.get(key) != wanted[key]]
      hint = f"give another --workdir, or move {self.directory(name)} away"
      if differs == ["scoring"]:
        hint = "remove the file to score the point again"
      raise ValueError(
        f"{path} is foreign: it is not of this sweep's point {name!r} but of"
        f" another {' and '.join(differs)}; {hint}."
      )
    return result

  def unfinished(self) -> list[str]:
    """Names of the points without a result, in order."""
    return [name for name in self.points if self.result(name) is None]

  def check_tabled(self, names: Collection[str]) -> None:
    """Raises ValueError if a point could be trained, but not put in the table.

    That takes its cost, counted from its program, and its config, read back
    from the result file. Better known before any training than after all.
    """
    is_silent = jax.process_index() > 0
    for name in tqdm.tqdm(
      names, desc="counting", unit="point", delay=1, disable=is_silent
    ):
      config = self.points[name]
      try:
        config_file.from_dict(ExperimentConfig, config_file.to_dict(config))
        if config.model.predicts:
          costs.check(config.model, config.autoencoder, config.num_chunks)
      except Exception as error:  # a kind of model may raise anything
        message = " ".join(str(error).split())[:300]
        raise ValueError(
          f"point {name!r} cannot be put in the table: its cost cannot be"
          f" counted or its config not be written ({type(error).__name__}:"
          f" {message}); nothing was trained."
        ) from error

  def result_files(self) -> dict[str, epath.Path]:
    """The result file of each finished point."""
    left = self.unfinished()
    return {n: self.result_file(n) for n in self.points if n not in left}

  def name(self, index: int) -> str:
    """The name of the i-th point, from 0.

    Raises:
      ValueError: if there is none.
    """
    if not 0 <= index < len(self.points):
      raise ValueError(
        f"--index={index} names no point; they are numbered 0 to"
        f" {len(self.points) - 1}."
      )
    return list(self.points)[index]

  def _resolve(
    self, config: ExperimentConfig, store: TokenStore
  ) -> ExperimentConfig:
    config = config_file.check_types(config)
    config.data.path = str(store.path)
    autoencoder = self.points.get(config.autoencoder_run)
    teacher = self.points.get(config.data.teacher_run)
    config = resolve(
      config,
      vocabulary=store.tokenizer.vocabulary,
      autoencoder=autoencoder and autoencoder.model,
      teacher=teacher and teacher.model,
    )
    if config.model.predicts:
      select_positions(
        self.scoring.positions,
        row_length=config.data.row_length,
        chunk_size=config.model.chunk_size,
      )
    return config


def _largest_of_each_kind(points: Points) -> set[str]:
  """The longest trained and largest model of each family and K."""
  largest: dict[tuple[str, int], tuple[tuple[int, int], str]] = {}
  for name, config in points.items():
    model = config.model
    if not model.predicts:
      continue
    num_tokens = (
      config.num_steps * config.data.batch_size * config.data.row_length
    )
    size = num_tokens, model.num_layers * model.hidden_size**2
    key = model.kind, model.chunk_size
    if key not in largest or size > largest[key][0]:
      largest[key] = size, name
  return {name for _, name in largest.values()}


def _hash(values: Any) -> str:
  text = json.dumps(values, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
