"""The answer in tables, and the parameters of a law with their bands."""

import math
from collections import defaultdict
from collections.abc import Sequence

from calm_jax.scaling.answer import Answer
from calm_jax.scaling.drawing import count
from calm_jax.scaling.law import Law
from calm_jax.scaling.page import with_error
from calm_jax.scaling.points import Point, series_title
from calm_jax.scaling.quantities import quantity_of
from calm_jax.scaling.seeds import score_error

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header, rows
NOT_TOLD = "not told from 0"  # an E that the fit ends with at 0


def laws_table(answer: Answer) -> Table:
  """The forms side by side, the best first."""
  header = ("law", "error of unseen runs", *_splits(answer), "best in", "")
  rows = []
  for it in answer.candidates:
    rows.append(
      (
        it.form.formula,
        *(
          f"{error:.1%}" if math.isfinite(error) else ""
          for error in (it.error, *it.errors.values())
        ),
        f"{it.win_share:.0%}" if it.law else "",
        "" if it.law else f"refused: {it.refusal}",
      )
    )
  return header, rows


def best_table(answer: Answer) -> Table:
  """The best K at each budget, for both prices of the autoencoder."""
  header = (
    "training FLOPs",
    "autoencoder",
    "best K",
    "90 % band",
    "best in",
    f"{quantity_of(answer.quantity).label}, 90 % band",
  )
  score_fn = quantity_of(answer.quantity).score_of_loss
  rows = []
  for title, found in (("full", answer.best), ("shared", answer.best_shared)):
    for best in found:
      middle, low, high = map(score_fn, best.loss)
      shares = best.shares.items()
      rows.append(
        (
          f"{best.training_flops:.2g}",
          title,
          str(best.chunk_size),
          f"{best.low} to {best.high}",
          ", ".join(f"K = {k}: {share:.0%}" for k, share in shares if share),
          f"{middle:.3g}, {min(low, high):.3g} to {max(low, high):.3g}",
        )
      )
  return header, rows


def scores_table(answer: Answer) -> Table:
  """Scores after the largest budget, a row a size; seeds averaged.

  Sizes are ranked within a family and K over all points, whether or not they
  count, so that a row never mixes sizes.
  """
  it = quantity_of(answer.quantity)
  kept = [one for one in answer.points if it.censored_reason(one) is None]
  most = max(point.tokens for point in kept)
  sizes: dict[tuple[str, int], set[float]] = defaultdict(set)
  for point in answer.points:
    sizes[point.family, point.chunk_size].add(point.parameters)
  cells: dict[tuple[tuple[str, int], int], list[Point]] = defaultdict(list)
  for point in kept:
    if point.tokens == most:
      key = point.family, point.chunk_size
      rank = sorted(sizes[key]).index(point.parameters)
      cells[key, rank].append(point)
  keys = {key for key, _ in cells}
  keys = sorted(keys, key=lambda key: (key[0] != "token", key))
  rows = []
  for rank in sorted({rank for _, rank in cells}):
    mine = [cells.get((key, rank), []) for key in keys]
    there = [point.parameters for cell in mine for point in cell]
    rows.append(
      (
        " to ".join(dict.fromkeys((count(min(there)), count(max(there))))),
        *(_mean(cell, answer) for cell in mine),
      )
    )
  return ("N", *(series_title(*key) for key in keys)), rows


def parameters_table(law: Law) -> Table:
  """Estimates with their bands; of an E at 0 that it is not told from it."""
  rows = []
  for name, (value, low, high) in law.parameters().items():
    band = f"{low:.4g} to {high:.4g}"
    if is_untold(law) and name == "E":
      band = f"{NOT_TOLD}{_at_most(high)}"
    rows.append((name, f"{value:.4g}", band))
  return (law.form.formula, "estimate", "90 % band"), rows


def parameters_words(law: Law) -> str:
  """As the table, in a sentence."""
  words = [
    f"{name} = {value:.3g} ({low:.3g} to {high:.3g})"
    for name, (value, low, high) in law.parameters().items()
  ]
  if is_untold(law):
    words[0] = f"E {NOT_TOLD}{_at_most(law.parameters()['E'][2])}"
  return f"{', '.join(words)}.{given_words(law)}"


def is_untold(law: Law) -> bool:
  """Whether the fit ends with E at 0, the least it can be."""
  return law.parameters()["E"][0] == 0


def given_words(law: Law) -> str:
  """What the other bands rest on where E is at 0; empty elsewhere."""
  if law.parameters()["E"][2] > 0:
    return ""
  return " The other bands are given E = 0."


def _at_most(high: float) -> str:
  return f", at most {high:.3g}" if high > 0 else ""


def _splits(answer: Answer) -> list[str]:
  return list(answer.candidates[0].errors) if answer.candidates else []


def _mean(points: Sequence[Point], answer: Answer) -> str:
  if not points:
    return ""
  it = quantity_of(answer.quantity)
  scores = [it.score(point) for point in points]
  text = max(it.error(point) for point in points)
  both = max(
    score_error(point, answer.quantity, answer.scatters.get(point.family))
    for point in points
  )
  seeds = max(both**2 - text**2, 0) / len(points)
  return with_error(sum(scores) / len(scores), (text**2 + seeds) ** 0.5)
