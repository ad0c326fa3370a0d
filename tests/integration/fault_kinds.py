"""What can happen to a run: one function a fault.

Each gets a scene whose processes run and a random generator, does its harm and
sees to it that the survivors end in time. It returns what it did, for the
record, or None if the run had ended before it could. All raise AssertionError
where a process does not behave.
"""

import random
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

from tests.integration import runs
from tests.integration.scene import (
  EXIT_SECONDS,
  NUM_STEPS,
  Scene,
  wait_all,
)

Fault = Callable[[Scene, random.Random], dict[str, Any] | None]

_START_SECONDS = 4.0  # until a process trains, about


def kill(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """SIGKILL of one process at a random moment."""
  moment = _wait_for_moment(scene, rng)
  if moment is None:
    return None
  return {**moment, **_kill_one(scene, rng)}


def kill_in_a_save(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """SIGKILL of one process while a checkpoint is half written."""
  saves = rng.randrange(4)  # that are let through
  seen: set[str] = set()
  while scene.is_training():
    unfinished = {
      path.name
      for path in (scene.path / "steps").glob("*.orbax-checkpoint-tmp*")
    }
    seen |= unfinished
    if unfinished and len(seen) > saves:
      time.sleep(rng.uniform(0, 0.05))
      return {"during": min(unfinished), **_kill_one(scene, rng)}
    time.sleep(0.005)
  return None


def terminate(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """SIGTERM to one process: all save, at the same step, and exit with 0."""
  moment = _wait_for_moment(scene, rng)
  if moment is None:
    return None
  target = rng.randrange(len(scene.trainers))
  scene.trainers[target].send(signal.SIGTERM)
  # It is heard at the next step, so after compilation.
  ended = _ended(scene.trainers, seconds=4 * EXIT_SECONDS)
  codes = _codes(scene.trainers)
  # Before the libraries are up nobody listens for the signal.
  is_early = codes[target] == -signal.SIGTERM
  assert is_early or not any(codes), _texts(scene.trainers)
  return {
    **moment,
    "target": target,
    "codes": codes,
    "ended_after_seconds": ended,
  }


def pause(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """SIGSTOP of one process for a moment; the run goes on by itself."""
  moment = _wait_for_moment(scene, rng)
  if moment is None:
    return None
  target, pause_seconds = rng.randrange(len(scene.trainers)), rng.uniform(0, 3)
  _pause(scene.trainers[target], pause_seconds)
  return {
    **moment,
    "target": target,
    "paused_seconds": pause_seconds,
  }


def freeze(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """SIGSTOP of one of several processes for good: the others end."""
  moment = _wait_for_moment(scene, rng)
  if moment is None:
    return None
  target = rng.randrange(len(scene.trainers))
  scene.trainers[target].send(signal.SIGSTOP)
  others = [it for it in scene.trainers if it is not scene.trainers[target]]
  try:
    ended = _ended(others)
  finally:
    scene.trainers[target].send(signal.SIGKILL)
  _ended(scene.trainers)
  return {
    **moment,
    "target": target,
    "codes": _codes(scene.trainers),
    "ended_after_seconds": ended,
  }


def damage(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """SIGKILL of all, and damage to the newest checkpoint."""
  moment = _wait_for_moment(scene, rng)
  while len(scene.steps()) < 2 and scene.is_training():
    time.sleep(0.02)
  if moment is None or not scene.is_training():
    return None
  for trainer in scene.trainers:
    trainer.send(signal.SIGKILL)
  _ended(scene.trainers)
  newest = scene.path / "steps" / str(scene.steps()[-1])
  files = [path for path in newest.rglob("*") if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  how = rng.choice(("cut", "flipped", "removed"))
  content = bytearray(largest.read_bytes())
  if how == "cut":
    largest.write_bytes(content[: len(content) // 2])
  elif how == "flipped":
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
  else:
    shutil.rmtree(newest / rng.choice(("params", "optimizer", "position")))
  return {**moment, "step": int(newest.name), "how": how}


def full_disk(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """A restart that may write no file above a size: one line, and exit 1."""
  outcome = kill(scene, rng)
  if outcome is None or NUM_STEPS in scene.steps():
    return None
  file_size = rng.choice((500, 4_000, 9_000))
  scene.start(file_size=file_size)
  ended = _ended(scene.trainers, seconds=4 * EXIT_SECONDS)
  for trainer in scene.trainers:
    assert trainer.finished.code != 0, trainer.finished.stderr
    assert "Traceback" not in trainer.finished.stderr, trainer.finished.stderr
  assert 1 in _codes(scene.trainers), _texts(scene.trainers)
  return {
    "after_killing": outcome,
    "file_size": file_size,
    "codes": _codes(scene.trainers),
    "ended_after_seconds": ended,
  }


def kill_evaluator(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """SIGKILL or SIGTERM of the evaluator; the trainers do not notice."""
  moment = _wait_for_moment(scene, rng)
  if moment is None:
    return None
  number = rng.choice((signal.SIGKILL, signal.SIGTERM))
  scene.evaluator.send(number)
  ended = _ended([scene.evaluator])
  return {
    **moment,
    "signal": number.name,
    "codes": _codes([scene.evaluator]),
    "ended_after_seconds": ended,
  }


def pause_evaluator(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """SIGSTOP of the evaluator for a moment."""
  moment = _wait_for_moment(scene, rng)
  if moment is None:
    return None
  pause_seconds = rng.uniform(0, 3)
  _pause(scene.evaluator, pause_seconds)
  return {**moment, "paused_seconds": pause_seconds}


def _wait_for_moment(scene: Scene, rng: random.Random) -> dict[str, Any] | None:
  """Waits; None if the run ends first.

  One moment in three falls into the start, and the others into the steps that
  are left, earlier ones more often.
  """
  is_in_start = rng.random() < 1 / 3
  seconds = rng.uniform(0, _START_SECONDS if is_in_start else 0.5)
  newest = max(scene.steps(), default=0)
  step = newest + int((NUM_STEPS - newest) * rng.uniform(0, 0.6))
  if not is_in_start:
    while scene.is_training() and scene.logged_step() <= step:
      time.sleep(0.03)
  deadline = time.monotonic() + seconds
  while scene.is_training() and time.monotonic() < deadline:
    time.sleep(0.03)
  if not scene.is_training():
    return None
  after = {} if is_in_start else {"logged_step": step}
  return {**after, "after_seconds": round(seconds, 3)}


def _kill_one(scene: Scene, rng: random.Random) -> dict[str, Any]:
  target = rng.randrange(len(scene.trainers))
  scene.trainers[target].send(signal.SIGKILL)
  ended = _ended(scene.trainers)
  return {
    "target": target,
    "codes": _codes(scene.trainers),
    "ended_after_seconds": ended,
  }


def _pause(process: runs.Running, seconds: float) -> None:
  process.send(signal.SIGSTOP)
  time.sleep(seconds)
  process.send(signal.SIGCONT)


def _ended(
  processes: list[runs.Running], seconds: float = EXIT_SECONDS
) -> list[float]:
  ended = wait_all(processes, seconds)
  assert None not in ended, f"{_texts(processes)} {seconds} s after the fault"
  return [round(it, 2) for it in ended]


def _codes(processes: list[runs.Running]) -> list[int]:
  return [process.finished.code for process in processes]


def _texts(processes: list[runs.Running]) -> list[Any]:
  return [process.wait(0) or "still running" for process in processes]
