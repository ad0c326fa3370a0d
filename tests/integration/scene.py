"""A run to disturb: its processes, and what an undisturbed one leaves."""

import json
import pathlib
import signal
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from calm_jax.checkpoint.run_directory import content_hash, load_run
from calm_jax.checkpoint.steps import list_steps
from calm_jax.json_files import read_rows
from tests.integration import runs

# Differ from one run to the next, whatever happens.
TIMINGS = ("tokens_per_second", "goodput", "seconds")
NUM_STEPS = 80
SAVE_INTERVAL = 10
HEARTBEAT_SECONDS = 10
JOIN_SECONDS = 15
EXIT_SECONDS = 30  # for the processes that a fault leaves over
_FINISH_SECONDS = 300


class Setting(NamedTuple):
  """What kind of run is disturbed."""

  stage: str  # autoencoder or calm
  num_processes: int = 1
  is_followed: bool = False  # by an evaluator


class Outcome(NamedTuple):
  """What a finished run leaves, without timings."""

  params: str  # hash
  rows: list[dict[str, Any]]  # of metrics.jsonl
  scores: dict[int, dict[str, float]]  # of the evaluator, by step


def make_material(directory: pathlib.Path, binaries: runs.Binaries) -> None:
  """Prepares data and trains the autoencoder that all scenes read, once."""
  if (directory / "autoencoder").exists():
    return
  runs.write_documents(directory)
  for name, flags in (
    ("prepare", [*runs.prepare_flags("data"), "--bytes"]),
    ("train", [*runs.train_flags("autoencoder"), "--workdir=autoencoder"]),
  ):
    finished = binaries(name, *flags, directory=directory)
    assert finished.code == 0, finished.stderr


class Scene:
  """One run directory and the processes that work on it."""

  def __init__(
    self,
    binaries: runs.Binaries,
    directory: pathlib.Path,
    setting: Setting,
    name: str,
  ):
    """Plans a run.

    Args:
      binaries: starts the processes.
      directory: with the material.
      setting: of the run.
      name: of the run directory, which does not exist yet.
    """
    self.setting = setting
    self.trainers: list[runs.Running] = []
    self.evaluator: runs.Running | None = None
    self.path = directory / name
    self._scores = directory / f"{name}.scores.jsonl"
    self._binaries = binaries
    self._directory = directory

  def start(self, file_size: int | None = None) -> None:
    """Starts what does not run: all trainers, and the evaluator."""
    if not (self.is_training() or self._has_ended(self.trainers)):
      count = self.setting.num_processes
      self.trainers = [
        self._binaries.start(
          "train",
          *self._train_flags(),
          *flags,
          directory=self._directory,
          file_size=file_size,
        )
        for flags in cluster_flags(count)
      ]
    followers = [self.evaluator] if self.evaluator else []
    if self.setting.is_followed and not (
      any(it.wait(0) is None for it in followers) or self._has_ended(followers)
    ):
      self.evaluator = self._binaries.start(
        "evaluate",
        *self._evaluate_flags(),
        directory=self._directory,
      )

  def is_training(self) -> bool:
    return any(trainer.wait(0) is None for trainer in self.trainers)

  def steps(self) -> list[int]:
    """The saved steps."""
    return list_steps(self.path / "steps")

  def logged_step(self) -> int:
    """The newest step with a row, 0 before any."""
    path = self.path / "metrics.jsonl"
    rows = read_rows(path) if path.exists() else []
    return rows[-1]["step"] if rows else 0

  def processes(self) -> list[runs.Running]:
    return [*self.trainers, *([self.evaluator] if self.evaluator else [])]

  def finish(self) -> None:
    """Lets the run end.

    Raises:
      AssertionError: if a process fails or does not end.
    """
    self.start()
    for process in self.processes():
      finished = process.wait(_FINISH_SECONDS)
      assert finished is not None, f"{process.pid} does not end: {self.path}"
      assert finished.code == 0, finished.stderr

  def outcome(self) -> Outcome:
    """Reads what the run leaves."""
    return Outcome(
      params=content_hash(load_run(self.path).params),
      rows=[
        {name: it for name, it in row.items() if name not in TIMINGS}
        for row in read_rows(self.path / "metrics.jsonl")
      ],
      scores=_read_scores(self._scores) if self.setting.is_followed else {},
    )

  def end(self) -> None:
    """Kills what is left."""
    for process in self.processes():
      process.send(signal.SIGKILL)
      process.wait(EXIT_SECONDS)

  def _has_ended(self, processes: list[runs.Running]) -> bool:
    """Whether processes came to the end of the run by themselves."""
    codes = [
      process.finished and process.finished.code for process in processes
    ]
    return NUM_STEPS in self.steps() and bool(codes) and not any(codes)

  def _train_flags(self) -> list[str]:
    flags = runs.train_flags(
      self.setting.stage,
      num_steps=NUM_STEPS,
      log_interval=5,
      eval_interval=20,
      save_interval=SAVE_INTERVAL,
      keep_interval=SAVE_INTERVAL,
      num_eval_rows=4,
      mesh__fsdp=self.setting.num_processes,
    )
    return [*flags, f"--workdir={self.path.name}"]

  def _evaluate_flags(self) -> list[str]:
    return [
      "--follow",
      f"--checkpoint={self.path.name}",
      "--data=data",
      f"--output={self._scores.name}",
      "--num_rows=2",
      "--batch_size=2",
      "--num_samples=2",
    ]


def cluster_flags(count: int) -> list[list[str]]:
  """For each of several processes on this machine, how it joins the others."""
  if count == 1:
    return [[]]
  with socket.socket() as listener:
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
  return [
    [
      f"--coordinator_address=127.0.0.1:{port}",
      f"--num_processes={count}",
      f"--process_id={i}",
      f"--heartbeat_seconds={HEARTBEAT_SECONDS}",
      f"--join_seconds={JOIN_SECONDS}",
    ]
    for i in range(count)
  ]


def wait_all(
  processes: Sequence[runs.Running], seconds: float
) -> list[float | None]:
  """Seconds until each process had ended; None: it has not."""
  start = time.monotonic()
  ended: list[float | None] = [None] * len(processes)
  while None in ended and time.monotonic() < start + seconds:
    for i, process in enumerate(processes):
      if ended[i] is None and process.wait(0.02) is not None:
        ended[i] = time.monotonic() - start
  return ended


def check(found: Outcome, expected: Outcome) -> None:
  """Raises AssertionError if a disturbed run is not as an undisturbed one."""
  assert found.params == expected.params, "the parameters differ"
  assert found.rows == expected.rows, "the rows of metrics.jsonl differ"
  # A signal saves a step of its own, which may be scored as well.
  for step, scores in expected.scores.items():
    assert found.scores.get(step) == scores, f"the scores of step {step}"


def _read_scores(path: pathlib.Path) -> dict[int, dict[str, float]]:
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  steps = [row["step"] for row in rows]
  assert len(steps) == len({*steps}), f"a step was scored twice: {steps}"
  return {
    row["step"]: {
      name: value for name, value in row.items() if isinstance(value, float)
    }
    for row in rows
  }
