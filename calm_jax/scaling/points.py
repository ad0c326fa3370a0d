"""The points of a scaling study: what was trained, and what it scored."""

import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow
import pyarrow.parquet

from calm_jax import paths
from calm_jax.config import ModelConfig

QUANTITIES = ("brier_lm", "brier_1", "cross_entropy")
SCORES = ("brier_lm", *(f"brier_{n}" for n in range(1, 5)), "cross_entropy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """One trained and scored model."""

  name: str  # unique in a study
  family: str  # `label` of a model that predicts: calm, token
  parameters: float  # trained ones, without the frozen autoencoder
  tokens: float  # of training
  chunk_size: int = 1  # K; 1 for a token model
  seed: int = 0
  training_flops: float = 0.0  # of the run; 0: not counted
  autoencoder_flops: float = 0.0  # of training the frozen one; 0: none
  inference_flops: float = 0.0  # a token, one sample; 0: not counted
  inference_flops_sampled: float = 0.0  # a token at T = 0.5; 0: not counted
  scores: dict[str, float] = dataclasses.field(default_factory=dict)
  errors: dict[str, float] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.family not in families():
      raise ValueError(
        f"point {self.name!r} is of family {self.family!r}; choose one of"
        f" {', '.join(families())}."
      )
    for name in ("parameters", "tokens", "chunk_size"):
      value = getattr(self, name)
      if not (math.isfinite(value) and value > 0):
        raise ValueError(
          f"point {self.name!r} has {name} {value}; it is positive."
        )
    for name, value in self.errors.items():
      if value < 0:
        raise ValueError(
          f"point {self.name!r} has a {name} with the error {value}; an error"
          " is not negative."
        )
    for name, value in [*self.scores.items(), *self.errors.items()]:
      if not math.isfinite(value):
        raise ValueError(
          f"point {self.name!r} has {name} {value}; a score is a finite"
          " number, so evaluate the point again or leave it out."
        )

  @property
  def whole_training_flops(self) -> float:
    """With all of the autoencoder's, though others may use it, too."""
    return self.training_flops and self.training_flops + self.autoencoder_flops

  def loss(self, quantity: str) -> tuple[float, float]:
    """What a law is fitted to, and its standard error.

    brier_lm: −ln(BrierLM / 100) · brier_1: −ln(Brier-1) · cross_entropy:
    itself, in nats a token. The error of −ln(s) is that of s over s.
    """
    score = self.scores[quantity]
    error = self.errors.get(quantity, 0.0)
    if quantity == "cross_entropy":
      return score, error
    return -math.log(score / _brier(quantity).best), error / score


class _Brier(NamedTuple):
  best: int  # the largest score
  num_orders: int  # of Brier-n that it is made of


def _brier(quantity: str) -> _Brier:
  known = {"brier_lm": _Brier(100, 4), "brier_1": _Brier(1, 1)}
  if quantity not in known:
    raise ValueError(
      f"the quantity {quantity!r} is not known; choose one of"
      f" {', '.join(QUANTITIES)}."
    )
  return known[quantity]


def families() -> dict[str, type[ModelConfig]]:
  """The families that predict, by the label of their points."""
  kinds = ModelConfig.kinds.values()
  return {kind.label: kind for kind in kinds if kind.predicts}


def series_title(family: str, chunk_size: int) -> str:
  """What a curve of one family and K is called."""
  model = families()[family]
  has_chunks = not model.has_likelihoods
  return f"{model.title}, K = {chunk_size}" if has_chunks else model.title


def score_of_loss(loss: float, quantity: str) -> float:
  """The score that a value of `Point.loss` stands for."""
  if quantity == "cross_entropy":
    return loss
  return _brier(quantity).best * math.exp(-loss)


def censored_reason(point: Point, quantity: str) -> str | None:
  """Why a point does not count for a quantity; None where it does.

  BrierLM is a product and −ln diverges at 0, so it counts only where each
  Brier-n stands above two of its errors; Brier-1 needs only itself.
  """
  if quantity == "cross_entropy":
    return None if quantity in point.scores else f"has no {quantity}"
  order = _brier(quantity).num_orders
  for name in (f"brier_{n}" for n in range(1, order + 1)):
    score, error = point.scores.get(name), point.errors.get(name)
    if score is None or error is None:
      return f"has no {name} with its error"
    if score <= 2 * error or score <= 0:
      return f"{name} {score:.2g} is not above two errors ({error:.2g})"
  if point.scores.get(quantity, 0) <= 0:
    return f"has no {quantity} above 0"
  return None


def split_censored(
  points: Iterable[Point], quantity: str
) -> tuple[list[Point], list[tuple[Point, str]]]:
  """The points that count for a quantity, and the others with the reason."""
  kept, censored = [], []
  for point in points:
    reason = censored_reason(point, quantity)
    if reason is None:
      kept.append(point)
    else:
      censored.append((point, reason))
  return kept, censored


def write_points(points: list[Point], stem: str | os.PathLike) -> None:
  """Writes `stem`.csv and `stem`.parquet, a row a point, each as a whole."""
  rows = [_to_row(point) for point in check_unique(points)]
  table = pyarrow.table(
    {name: [row[name] for row in rows] for name in _COLUMNS}
  )
  stem = pathlib.Path(stem)
  with paths.written_whole(stem.with_suffix(".parquet")) as beside:
    pyarrow.parquet.write_table(table, beside)
  with (
    paths.written_whole(stem.with_suffix(".csv")) as beside,
    open(beside, "w", newline="", encoding="utf-8") as file,
  ):
    writer = csv.DictWriter(file, _COLUMNS)
    writer.writeheader()
    writer.writerows(rows)


def read_points(path: str | os.PathLike) -> list[Point]:
  """Reads a table that `write_points` wrote, .csv or .parquet.

  Raises:
    ValueError: if it is no such table, a name stands twice, or a score is not
      a finite number.
    OSError: if it cannot be read.
  """
  path = pathlib.Path(path)
  if path.suffix not in _READERS:
    raise ValueError(
      f"{path} is no table that can be read; known are {', '.join(_READERS)}."
    )
  try:
    rows = _READERS[path.suffix](path)
  except (pyarrow.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f"{path} is not a table of points: {error}") from None
  if not rows:
    raise ValueError(f"{path} has no points; run the sweep first.")
  missing = [name for name in _REQUIRED if name not in rows[0]]
  if not any(name in rows[0] for name in SCORES):
    missing.append("every score")
  if missing:
    raise ValueError(
      f"{path} is not a table of points: it lacks {', '.join(missing)}."
    )
  return check_unique([_from_row(row, path) for row in rows])


def _read_csv(path: pathlib.Path) -> list[dict]:
  # Programs for tables put a mark in front.
  with path.open(newline="", encoding="utf-8-sig") as file:
    return list(csv.DictReader(file))


_READERS = {
  ".csv": _read_csv,
  ".parquet": lambda path: pyarrow.parquet.read_table(path).to_pylist(),
}


def check_unique(points: list[Point]) -> list[Point]:
  """Raises ValueError where two points have one name."""
  names = set()
  for point in points:
    if point.name in names:
      raise ValueError(
        f"two points are named {point.name!r}; every point of a study has its"
        " own name."
      )
    names.add(point.name)
  return points


_FIELDS = {
  field.name: field.type
  for field in dataclasses.fields(Point)
  if field.name not in ("scores", "errors")
}
_REQUIRED = ("name", "family", "parameters", "tokens", "chunk_size")
_COLUMNS = [*_FIELDS, *(f"{s}{e}" for s in SCORES for e in ("", "_stderr"))]


def _to_row(point: Point) -> dict[str, object]:
  row = {name: getattr(point, name) for name in _FIELDS}
  for name in SCORES:
    row[name] = point.scores.get(name)
    row[f"{name}_stderr"] = point.errors.get(name)
  return row


def _from_row(row: dict, path: pathlib.Path) -> Point:
  def number(name: str, kind: type) -> float:
    try:
      return kind(row[name])
    except (TypeError, ValueError):
      raise ValueError(
        f"{path}: point {row.get('name')!r} has {name} {row[name]!r}; a number"
        " is expected."
      ) from None

  present = {name for name, value in row.items() if value not in (None, "")}
  fields = {
    name: number(name, kind) for name, kind in _FIELDS.items() if name in row
  }
  return Point(
    **fields,
    scores={s: number(s, float) for s in SCORES if s in present},
    errors={
      s: number(f"{s}_stderr", float)
      for s in SCORES
      if f"{s}_stderr" in present
    },
  )
