"""Harms small runs at random and shows that nothing is lost or repeated.

    python -m tests.integration.faults --num_faults=50 --seed=0 \\
        --output=faults.json
    python -m tests.integration.faults --stops_only --num_faults=20

Runs of both stages, by one process and by two, with an evaluator that follows
them, are killed, stopped, starved of disk and robbed of checkpoints. After each
fault the survivors must end within 30 s and the same command is given again;
at the end the parameters must be those of an undisturbed run, bit for bit, and
the rows of metrics and scores complete and unique. With --stops_only single
processes get SIGTERM or SIGKILL at random moments, and nothing else.

The faults follow from the seed; the moments at which they arrive also depend
on how fast the machine is. An output that exists gets one piece more, so a long
series can be made in parts with different seeds, and with one --directory they
share the undisturbed runs. Exits with 1 at the first run that comes to harm,
and leaves its directory.
"""

import argparse
import collections
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import shutil
import sys
import tempfile
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tests.integration import fault_kinds, runs
from tests.integration.scene import (
  Outcome,
  Scene,
  Setting,
  check,
  make_material,
)

_STOPS: dict[str, fault_kinds.Fault] = {
  "kill": fault_kinds.kill,
  "terminate": fault_kinds.terminate,
}
_ALL: dict[str, fault_kinds.Fault] = {
  **_STOPS,
  "kill in a save": fault_kinds.kill_in_a_save,
  "pause": fault_kinds.pause,
  "damage": fault_kinds.damage,
  "full disk": fault_kinds.full_disk,
  "freeze": fault_kinds.freeze,
  "kill evaluator": fault_kinds.kill_evaluator,
  "pause evaluator": fault_kinds.pause_evaluator,
}
_STOP_SETTINGS = [Setting("autoencoder"), Setting("calm")]
_ALL_SETTINGS = [
  Setting("autoencoder", is_followed=True),
  Setting("calm", num_processes=2, is_followed=True),
  Setting("calm", is_followed=True),
  Setting("autoencoder", num_processes=2, is_followed=True),
]
_PER_RUN = 4  # faults; the run must come to its end between them
_PACKAGES = ("jax", "jaxlib", "orbax-checkpoint", "numpy")


class Series:
  """Faults one after another, from one seed."""

  def __init__(
    self,
    binaries: runs.Binaries,
    directory: pathlib.Path,
    *,
    seed: int,
    settings: list[Setting],
    kinds: dict[str, fault_kinds.Fault],
  ):
    self.faults: list[dict[str, Any]] = []
    self.num_runs = 0
    self._binaries = binaries
    self._directory = directory
    self._settings = settings
    self._kinds = kinds
    self._seed = seed
    self._rng = random.Random(seed)
    self._decks: dict[Setting, list[str]] = collections.defaultdict(list)
    # An undisturbed run of each setting is made when first asked for.
    self._expected = functools.cache(self._undisturbed)

  def run(self, num_faults: int) -> None:
    """Adds so many faults.

    Raises:
      AssertionError: if one does harm.
    """
    while len(self.faults) < num_faults:
      setting = self._settings[self.num_runs % len(self._settings)]
      expected = self._expected(setting)
      scene = self._scene(setting, f"seed_{self._seed}_{self.num_runs}")
      self.num_runs += 1
      try:
        self._disturb(scene, min(_PER_RUN, num_faults - len(self.faults)))
        scene.finish()
        check(scene.outcome(), expected)
      except AssertionError as error:
        raise AssertionError(
          f"{scene.path}: {error}\nlast faults:"
          f" {json.dumps(self.faults[-_PER_RUN:], indent=1)}"
        ) from error
      finally:
        scene.end()
      shutil.rmtree(scene.path)

  def _disturb(self, scene: Scene, num_faults: int) -> None:
    for _ in range(num_faults):
      kind = self._next_kind(scene.setting)
      scene.start()
      before = scene.steps()[-1:]
      outcome = self._kinds[kind](scene, self._rng)
      if outcome is None:
        return  # the run has ended: this kind's turn comes in the next
      self._decks[scene.setting].pop()
      self.faults.append(
        {
          "run": self.num_runs,
          **scene.setting._asdict(),
          "fault": kind,
          "newest_step_before": before[0] if before else None,
          "newest_step_after": max(scene.steps(), default=None),
          **outcome,
        }
      )
      print(json.dumps(self.faults[-1]), file=sys.stderr, flush=True)

  def _next_kind(self, setting: Setting) -> str:
    """The kinds that make sense, each once before any comes again."""
    if not self._decks[setting]:
      deck = [
        kind
        for kind in self._kinds
        if (setting.is_followed or "evaluator" not in kind)
        and (setting.num_processes > 1 or kind != "freeze")
      ]
      self._rng.shuffle(deck)
      self._decks[setting] = deck
    return self._decks[setting][-1]

  def _undisturbed(self, setting: Setting) -> Outcome:
    name = "undisturbed_" + "_".join(map(str, setting))
    scene = self._scene(setting, name)
    is_there = self._directory / f"{name}.finished"
    try:
      if not is_there.exists():
        scene.finish()
        is_there.touch()
      return scene.outcome()
    finally:
      scene.end()

  def _scene(self, setting: Setting, name: str) -> Scene:
    return Scene(self._binaries, self._directory, setting, name)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument("--num_faults", type=int, default=50)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--stops_only", action="store_true")
  parser.add_argument("--output", type=pathlib.Path)
  parser.add_argument(
    "--directory", type=pathlib.Path, help="Kept, with the undisturbed runs."
  )
  arguments = parser.parse_args()
  directory = arguments.directory or pathlib.Path(
    tempfile.mkdtemp(prefix="faults")
  )
  directory.mkdir(exist_ok=True)
  binaries = runs.Binaries()
  try:
    make_material(directory, binaries)
    series = Series(
      binaries,
      directory,
      seed=arguments.seed,
      settings=_STOP_SETTINGS if arguments.stops_only else _ALL_SETTINGS,
      kinds=_STOPS if arguments.stops_only else _ALL,
    )
    series.run(arguments.num_faults)
  except AssertionError as error:
    sys.exit(f"error: {error}")
  finally:
    binaries.close()
  if not arguments.directory:
    shutil.rmtree(directory)
  counts = collections.Counter(fault["fault"] for fault in series.faults)
  print(
    f"{len(series.faults)} faults over {series.num_runs} runs, each the same as"
    f" undisturbed, bit for bit: {dict(counts)}"
  )
  if arguments.output:
    _write(arguments.output, arguments.seed, series)


def _write(path: pathlib.Path, seed: int, series: Series) -> None:
  pieces = json.loads(path.read_text())["pieces"] if path.exists() else []
  pieces.append(
    {"seed": seed, "num_runs": series.num_runs, "faults": series.faults}
  )
  content = {
    "command": "python -m tests.integration.faults",
    "num_faults": sum(len(piece["faults"]) for piece in pieces),
    "versions": {
      "python": platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
    "pieces": pieces,
  }
  path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
  main()
