"""The points of a scaling study: what was trained, and what it scored."""

import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow
import pyarrow.parquet

from calm_jax import paths
from calm_jax.config import ModelConfig
from calm_jax.scaling.forms import features
from calm_jax.scaling.quantities import quantity_of

SCORES = (
  "brier_lm",
  *(f"brier_{n}" for n in range(1, 5)),
  "cross_entropy",
  "cloze_accuracy",  # (accuracy − chance) / (1 − chance)
  "cloze_nats",  # −log p̂ of the true continuation, a question
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
  """One trained and scored model."""

  name: str  # unique in a study
  family: str  # `label` of a model that predicts: calm, token
  parameters: float  # trained ones, without the frozen autoencoder
  tokens: float  # of training
  chunk_size: int = 1  # K; 1 for a token model
  seed: int = 0
  bytes_per_token: float = 0.0  # of the training text; 0: not known
  backbone_parameters: float = 0.0  # of them; 0: not known
  autoencoder_parameters: float = 0.0  # of the frozen one; 0: none
  training_flops: float = 0.0  # of the run; 0: not counted
  autoencoder_flops: float = 0.0  # of training the frozen one; 0: none
  autoencoder_users: int = 0  # points of the study it serves; 0: not known
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

  @property
  def shared_training_flops(self) -> float:
    """With this point's share of the autoencoder's, equal for all its users.

    0 where it is not known how many they are.
    """
    if not self.autoencoder_flops:
      return self.training_flops
    if not self.autoencoder_users:
      return 0.0
    share = self.autoencoder_flops / self.autoencoder_users
    return self.training_flops and self.training_flops + share

  @property
  def inference_flops_per_byte(self) -> float:
    """One sample; 0: not known."""
    return self._per_byte(self.inference_flops)

  @property
  def inference_flops_sampled_per_byte(self) -> float:
    """At T = 0.5; 0: not known."""
    return self._per_byte(self.inference_flops_sampled)

  @property
  def place(self) -> tuple[str, float, float, int]:
    """What points that differ by their seed alone have in common."""
    return self.family, self.parameters, self.tokens, self.chunk_size

  def loss(self, quantity: str) -> tuple[float, float]:
    """What a law is fitted to, and its standard error; see `quantities`.

    The error is that of the evaluated text; of −ln(s) it is that of s over s.
    """
    it = quantity_of(quantity)
    score, error = it.score(self), it.error(self)
    return it.loss(score), error if it.best is None else error / score

  def _per_byte(self, flops: float) -> float:
    return flops / self.bytes_per_token if self.bytes_per_token else 0.0


def point_features(points: Sequence[Point]) -> np.ndarray:
  """x of `forms.features`, [V, n]: D in bytes where all points know theirs."""
  data = [
    point.tokens * (point.bytes_per_token if in_bytes(points) else 1.0)
    for point in points
  ]
  return features(
    [point.parameters for point in points],
    data,
    [point.chunk_size for point in points],
    [point.backbone_parameters or math.nan for point in points],
    [point.autoencoder_parameters for point in points],
  )


def in_bytes(points: Sequence[Point]) -> bool:
  """Whether D can be counted in bytes; in tokens otherwise."""
  return all(point.bytes_per_token for point in points)


def families() -> dict[str, type[ModelConfig]]:
  """The families that predict, by the label of their points."""
  kinds = ModelConfig.kinds.values()
  return {kind.label: kind for kind in kinds if kind.predicts}


def series_title(family: str, chunk_size: int) -> str:
  """What a curve of one family and K is called."""
  model = families()[family]
  has_chunks = not model.has_likelihoods
  return f"{model.title}, K = {chunk_size}" if has_chunks else model.title


def split_censored(
  points: Iterable[Point], quantity: str
) -> tuple[list[Point], list[tuple[Point, str]]]:
  """The points that count for a quantity, and the others with the reason.

  Raises:
    ValueError: if a loss is 0 or less, as of a BrierLM above 100.
  """
  kept, censored = [], []
  for point in points:
    reason = quantity_of(quantity).censored_reason(point)
    if reason is None:
      loss, _ = point.loss(quantity)
      if loss <= 0:
        raise ValueError(
          f"point {point.name!r} has a {quantity} loss of {loss:.3g}; the law"
          " needs losses above 0."
        )
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
