"""The result files of a sweep in one table, and what a page shows beside it."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from calm_jax import paths
from calm_jax.json_files import read_json, write_json
from calm_jax.scaling.points import Point, write_points
from calm_jax.scaling.scored_run import read_point
from calm_jax.scaling.study import SAMPLE, SETTING, check_items

_SHOWN = ("_stderr", "_per_dimension")  # of an autoencoder, and its scores
_CHOICES = "choices.json"
_SAME = ("commit", "device", "versions", "hashes", "settings")


def collect(
  results: Mapping[str, str | os.PathLike], directory: str | os.PathLike
) -> list[Point]:
  """Writes table.csv, table.parquet and results.json.

  Beside a result file may lie choices.json, written by launch.choose for the
  same run, all of the same questions by the same estimate: it adds scores.

  Args:
    results: the result file of each finished point, by its name. Those of
      autoencoders give no point, and stand in results.json.
    directory: gets the files.

  Returns:
    The points of the table.

  Raises:
    ValueError: if a file is damaged or foreign, or none gives a point.
    OSError: if a file cannot be read or written.
  """
  if paths.is_remote(directory):
    raise ValueError(
      f"{directory} is remote; copy it to a local disk and collect there."
    )
  directory = pathlib.Path(directory).expanduser()
  found = {name: read_json(it) for name, it in results.items()}
  scored = [name for name in found if found[name].get("kind") != "autoencoder"]
  if not scored:
    raise ValueError(
      f"{directory} has no finished next-vector or token point; run them"
      " first, or look for error.txt in their directories."
    )
  for name in scored:
    for key, fields in (("samples", SAMPLE), ("trade_off", SETTING)):
      place = f"{results[name]}: {key}"
      check_items(found[name].get(key, []), fields, place)
  choices = _choices({name: results[name] for name in scored})
  used = {name: _autoencoder_name(found[name]) for name in scored}
  points = [
    dataclasses.replace(
      read_point(
        results[name],
        name,
        autoencoder=results.get(used[name]),
        choices=choices.get(name),
      ),
      autoencoder_users=list(used.values()).count(used[name])
      if used[name] in results
      else 1,
    )
    for name in scored
  ]
  summary: dict[str, Any] = {}
  for name, result in found.items():
    if name not in scored:
      summary[name] = {
        key: result[key]
        for key in result
        if f"{key}_stderr" in result or key.endswith(_SHOWN)
      }
  summary["samples"] = [
    {"name": name, **sample}
    for name in scored
    for sample in found[name].get("samples", [])
  ]
  summary["trade_off"] = {
    name: found[name]["trade_off"]
    for name in scored
    if "trade_off" in found[name]
  }
  for key in _SAME:
    values = [result.get(key) for result in found.values()]
    summary[key] = _agreed([value for value in values if value])
  write_json(directory / "results.json", summary)
  write_points(points, directory / "table")
  return points


def _choices(
  results: Mapping[str, str | os.PathLike],
) -> dict[str, pathlib.Path]:
  """The answered questions beside result files, which are all the same."""
  beside = {
    name: path
    for name, it in results.items()
    if (path := pathlib.Path(it).parent / _CHOICES).exists()
  }
  hashes: dict[str, pathlib.Path] = {}
  estimates: dict[str, pathlib.Path] = {}
  for path in beside.values():
    found = read_json(path)
    hashes.setdefault(str(found.get("task_hash")), path)
    if (estimate := str(found.get("estimate"))) != "exact":  # a token model's
      estimates.setdefault(estimate, path)
  if len(hashes) > 1:
    first, second, *_ = hashes.values()
    raise ValueError(
      f"{first} and {second} answer different questions; scores of one table"
      " are those of one --task."
    )
  if len(estimates) > 1:
    (name, first), (other, second), *_ = estimates.items()
    raise ValueError(
      f"{first} has answers by --estimate={name} and {second} by {other};"
      " accuracies of one table are those of one estimate."
    )
  return beside


def _autoencoder_name(result: Mapping[str, Any]) -> str:
  """The point whose directory the frozen autoencoder was taken from."""
  config = result.get("config")
  run = config.get("autoencoder_run") if isinstance(config, dict) else None
  return pathlib.PurePath(str(run or "")).name


def _agreed(values: list[Any]) -> Any:
  """One value of all results; where they differ, all of them in words."""
  if values and all(isinstance(value, dict) for value in values):
    names = dict.fromkeys(name for value in values for name in value)
    return {
      name: _agreed([value[name] for value in values if name in value])
      for name in names
    }
  texts = dict.fromkeys(str(value) for value in values)
  return values[0] if len(texts) == 1 else ", ".join(texts)
