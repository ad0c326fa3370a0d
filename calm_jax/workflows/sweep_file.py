"""The points that a sweep file names, and what is wrong with them."""

import os
import re
import runpy

from calm_jax.config import ExperimentConfig

Points = dict[str, ExperimentConfig]

_NAME = re.compile(r"[A-Za-z0-9][\w.=-]*")


def read_sweep_file(sweep: str) -> Points:
  """The points of `FILE:ARGUMENT`, from the `get_sweep(ARGUMENT)` of the file.

  Args:
    sweep: the file, and after a colon the argument of its function, which
      yields (name, config). The `autoencoder_run` of a next-vector config is
      the name of an autoencoder of the same sweep, and its `data.teacher_run`
      that of a token model.

  Returns:
    Configs by name, in the order of the file but what others need first.

  Raises:
    OSError: if there is no such file.
    ValueError: if it yields something else, a name twice or unfit for a
      directory, or a next-vector model without its autoencoder.
  """
  path, _, argument = os.path.expanduser(sweep).partition(":")
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f"there is no sweep file {path!r}; name one, such as"
      " --sweep=experiments/sweep_k.py:tiny."
    )
  items = _items(path, argument or None)
  points: Points = {}
  for item in items:
    name, config = _checked(item, path)
    if name in points:
      raise ValueError(
        f"{path} names two points {name!r}; every point has its own name."
      )
    points[name] = config
  if not any(config.model.predicts for config in points.values()):
    raise ValueError(
      f"{path} names {len(points)} points and none with a next-vector or token"
      " model; a sweep compares such."
    )
  for name, config in points.items():
    _check_autoencoder(name, config, points)
    _check_teacher(name, config, points)
  first = needed_points(points)
  return dict(sorted(points.items(), key=lambda item: item[0] not in first))


def needs(config: ExperimentConfig) -> tuple[str, ...]:
  """Names of the points that have to be finished before one can start."""
  return tuple(filter(None, (config.autoencoder_run, config.data.teacher_run)))


def needed_points(points: Points) -> set[str]:
  """Names of those that others need."""
  return {name for config in points.values() for name in needs(config)}


def _items(path: str, argument: str | None) -> list:
  try:
    get_sweep = runpy.run_path(path).get("get_sweep")
    if get_sweep is None:
      raise ValueError("it has no get_sweep(argument)")
    return list(get_sweep(argument))
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  except Exception as error:  # a sweep file may raise anything
    raise ValueError(
      f"the sweep file {path} cannot be read ({type(error).__name__}: {error})."
    ) from error


def _checked(item: object, path: str) -> tuple[str, ExperimentConfig]:
  match item:
    case (str(name), ExperimentConfig() as config):
      if not _NAME.fullmatch(name) or len(name) > 100:
        raise ValueError(
          f"{path} names a point {name!r}; its name is that of its directory:"
          " up to 100 letters, digits and any of . = _ - inside."
        )
      return name, config
  raise ValueError(
    f"{path} yields {str(item)[:60]!r}; a point is a pair (name,"
    " ExperimentConfig)."
  )


def _check_autoencoder(
  name: str, config: ExperimentConfig, points: Points
) -> None:
  if not config.model.needs_autoencoder:
    if config.autoencoder_run:
      raise ValueError(
        f"point {name!r} has autoencoder_run {config.autoencoder_run!r}, and"
        f" its {config.model.kind} model has no use for one; leave it out."
      )
    return
  wanted, chunk_size = config.autoencoder_run, config.model.chunk_size
  found = points.get(wanted)
  if found is None or found.model.predicts:
    raise ValueError(
      f"point {name!r} has autoencoder_run {wanted!r}, which is no autoencoder"
      " of this sweep; name one of its points."
    )
  if found.model.chunk_size != chunk_size:
    raise ValueError(
      f"point {name!r} has chunks of {chunk_size} tokens and its autoencoder"
      f" {wanted!r} of {found.model.chunk_size}; train one for each."
    )


def _check_teacher(name: str, config: ExperimentConfig, points: Points) -> None:
  wanted = config.data.teacher_run
  if not wanted:
    return
  found = points.get(wanted)
  if found is None or not found.model.has_likelihoods:
    raise ValueError(
      f"point {name!r} has data.teacher_run {wanted!r}, which is no token model"
      " of this sweep; name one of its points."
    )
  if not config.model.needs_autoencoder:
    raise ValueError(
      f"point {name!r} holds a model of kind {config.model.kind!r}, which is"
      " not taught; leave out its data.teacher_run."
    )
  if found.data.row_length < config.data.row_length:
    raise ValueError(
      f"point {name!r} has rows of {config.data.row_length} tokens and its"
      f" teacher {wanted!r} of {found.data.row_length}; give at most as many."
    )
