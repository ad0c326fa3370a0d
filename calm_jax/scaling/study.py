"""What a directory holds that can be reported: a run, a sweep, a quickstart.

    table.parquet | table.csv   points of a sweep
    results.json                scores, by stage; samples; trade_off
    metrics.jsonl               of a run, here or up to two levels down
    choose*.json                of launch.choose, here or up to two levels down
    config.json                 beside each of them

Any part may be missing. A part that is there and damaged is refused.
"""

import dataclasses
import os
import pathlib
from typing import Any

from calm_jax.json_files import read_json, read_rows
from calm_jax.scaling.points import Point, read_points

TABLES = ("table.parquet", "table.csv")  # the first that exists is read
SAMPLE = {"prompt": str, "text": str}  # what a page shows of each
SETTING = {
  "label": str,
  "accuracy": int | float,
  "collision": int | float,
}  # of a trade-off
_RESULTS = "results.json"
_METRICS = "metrics.jsonl"
_CONFIG = "config.json"
_CHOICES = "choose*.json"
_LEVELS = ("", "*/", "*/*/")


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run."""

  name: str  # its directory, seen from the study's
  rows: list[dict[str, float]]  # step, and numbers by name
  config: dict[str, Any]  # empty if there is no config.json

  @property
  def kind(self) -> str:
    """What it can be compared with: "autoencoder", "next vector, K = 4", …"""
    model = self.config.get("config", self.config).get("model", {})
    kind = str(model.get("kind", "model"))
    words = kind.replace("_", " ")
    # Distances, and with them the energy loss, grow with the latent.
    if kind == "next_vector" and "chunk_size" in model:
      words += f", K = {model['chunk_size']}"
    return words

  def series(self, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one number, where it was logged."""
    rows = [row for row in self.rows if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


@dataclasses.dataclass(frozen=True)
class Study:
  """Everything found in one directory."""

  directory: pathlib.Path
  results: dict[str, Any]
  points: list[Point]
  runs: list[Run]
  choices: dict[str, dict[str, Any]]  # results of launch.choose, by file


def read_study(directory: str | os.PathLike) -> Study:
  """Reads whatever the directory holds.

  Raises:
    OSError: if there is no directory, or nothing in it to report.
    ValueError: if a file is damaged, naming it and the place.
  """
  directory = pathlib.Path(directory).expanduser()
  if not directory.is_dir():
    raise FileNotFoundError(
      f"there is no directory {directory}; give the --workdir of a run, a"
      " sweep or the quickstart."
    )
  results = directory / _RESULTS
  tables = [path for name in TABLES if (path := directory / name).exists()]
  study = Study(
    directory,
    _read_results(results) if results.exists() else {},
    read_points(tables[0]) if tables else [],
    [
      _read_run(path, directory)
      for prefix in _LEVELS
      for path in sorted(directory.glob(prefix + _METRICS))
    ],
    {
      str(path.relative_to(directory).with_suffix("")): _read_choices(path)
      for prefix in _LEVELS
      for path in sorted(directory.glob(prefix + _CHOICES))
    },
  )
  if not (study.results or study.points or study.runs or study.choices):
    raise FileNotFoundError(
      f"{directory} has nothing to report; expected {_RESULTS} (quickstart),"
      f" {' or '.join(TABLES)} (sweep), {_METRICS} (run) or {_CHOICES}"
      " (launch.choose)."
    )
  return study


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
  """Reads metrics.jsonl: a step and numbers by name in every line.

  A last line that is still being written is left out; so is what is null, which
  stands for a number that was not finite.
  """
  return [
    {
      name: value
      for name, value in row.items()
      if isinstance(value, int | float)
    }
    for row in read_rows(path)
  ]


def _read_results(path: pathlib.Path) -> dict[str, Any]:
  """Reads results.json and checks the parts that are known by name."""
  results = read_json(path)
  for name in ("autoencoder", "calm", "trade_off"):
    if not isinstance(results.get(name, {}), dict):
      raise ValueError(f"{path}: {name} is not a JSON object; write it anew.")
  check_items(results.get("samples", []), SAMPLE, f"{path}: samples")
  text = {"prompt": str, "model": str, "real": str}
  check_items(results.get("continuations", []), text, f"{path}: continuations")
  for name, settings in results.get("trade_off", {}).items():
    check_items(settings, SETTING, f"{path}: trade_off.{name}")
  for stage, values in results.items():
    if not isinstance(values, dict):
      continue
    place = f"{path}: {stage}"
    _check_errors(values, place)
    if not _is_numbers(values.get("std_per_dimension", [])):
      raise ValueError(
        f"{place}.std_per_dimension is not a list of numbers; write it anew."
      )
  return results


def _read_choices(path: pathlib.Path) -> dict[str, Any]:
  """Reads a result of launch.choose and checks what a page shows of it."""
  result = read_json(path)
  number = int | float
  fields = {
    "form": str,
    "estimate": str,
    "num_items": int,
    "chance": number,
    "estimates": dict,
  }
  scores = {"accuracy": number}
  bins = {"confidence": number, **scores}
  counts = {"num_samples": int, **scores}
  check_items([result], fields, str(path))
  check_items([*result["estimates"].values()], scores, f"{path}: estimates")
  for name, values in result["estimates"].items():
    place = f"{path}: estimates.{name}"
    check_items(values.get("reliability", []), bins, f"{place}.reliability")
    rows = values.get("by_num_samples", [])
    check_items(rows, counts, f"{place}.by_num_samples")
    for row in (values, *rows):
      _check_errors(row, place)
  return result


def _check_errors(values: dict[str, Any], place: str) -> None:
  for name, value in values.items():
    if name.endswith("_stderr") and not isinstance(value, int | float | None):
      raise ValueError(f"{place}.{name} is {value!r}, not a number.")


def _is_numbers(value: Any) -> bool:
  return isinstance(value, list) and all(
    isinstance(item, int | float) for item in value
  )


def check_items(items: Any, fields: dict[str, Any], place: str) -> None:
  """Raises ValueError unless items is a list of objects with these fields."""
  if not isinstance(items, list) or not all(
    isinstance(item, dict) and isinstance(item.get(name), kind)
    for item in items
    for name, kind in fields.items()
  ):
    raise ValueError(
      f"{place} is not a list of objects with {', '.join(fields)}; write it"
      " anew."
    )


def _read_run(path: pathlib.Path, directory: pathlib.Path) -> Run:
  config = path.parent / _CONFIG
  name = str(path.parent.relative_to(directory))
  return Run(
    directory.resolve().name if name == "." else name,
    read_metrics(path),
    read_json(config) if config.exists() else {},
  )
