"""The answer in sentences and tables, for the page and for documentation.

Every number about K stands with its 90 % band, and what the points do not say
is said.
"""

import math
import textwrap
from collections import defaultdict
from collections.abc import Sequence

from calm_jax.scaling.answer import Answer
from calm_jax.scaling.drawing import count
from calm_jax.scaling.page import with_error
from calm_jax.scaling.points import Point, families, series_title
from calm_jax.scaling.quantities import quantity_of
from calm_jax.scaling.seeds import score_error

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header, rows


def sentences(answer: Answer) -> list[str]:
  """What follows for K, and what does not."""
  words = []
  if answer.best:
    first, last = answer.best[0], answer.best[-1]
    words.append(
      "Best K for a budget of training FLOPs (90 % band), each model paying for"
      f" all of its autoencoder: {_best(first)}, {_best(last)}. With the"
      " autoencoder shared by the models that use it:"
      f" {_best(answer.best_shared[0])}, {_best(answer.best_shared[-1])}."
    )
    smallest = min(first.shares)
    words.append(
      f"At equal cost L = {quantity_of(answer.quantity).unit} exceeds that of"
      f" K = {smallest} "
      + "; ".join(
        f"with K = {k} by {_percent(first.gaps[k])} at the smallest of these"
        f" budgets and {_percent(last.gaps[k])} at the largest"
        for k in first.gaps
      )
      + "."
    )
    words.append(_movement(answer))
  there = [
    (best.training_flops, gap)
    for best, gap in zip(answer.best, answer.token_gaps, strict=False)
    if gap[0] == gap[0]  # no nan
  ]
  if there:
    words.append(
      "The L of the best K exceeds that of the token model at equal cost by "
      + ", ".join(f"{_percent(gap)} at {cost:.2g}" for cost, gap in there)
      + " training FLOPs."
    )
  return words + missing(answer)


def missing(answer: Answer) -> list[str]:
  """What the points do not say, in sentences."""
  words = list(answer.refusals)
  calms = [it for it in answer.points if it.family == "calm"]
  if calms:
    sizes = sorted({point.chunk_size for point in calms})
    words.append(
      f"Nothing is said of a K above {sizes[-1]}: trained are K ="
      f" {', '.join(map(str, sizes))}."
    )
  for family, scatter in answer.scatters.items():
    title = capitalised(families()[family].title)
    if scatter is None:
      words.append(
        f"{title}: no two runs differ by their seed alone, so errors are those"
        " of the evaluated text and do not hold what another seed would change."
      )
    else:
      words.append(
        f"{title}: another seed changes L by {scatter.value:.2%} (90 % band"
        f" {scatter.low:.2%} to {scatter.high:.2%}; {scatter.degrees} degrees"
        " of freedom), taken to be the same at all places. All seeds share the"
        " autoencoder; what another one would change is not in it."
      )
  return words


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
  """Scores after the largest budget, a row a size; seeds averaged."""
  it = quantity_of(answer.quantity)
  kept = [one for one in answer.points if it.censored_reason(one) is None]
  most = max(point.tokens for point in kept)
  groups: dict[tuple[str, int], list[Point]] = defaultdict(list)
  for point in kept:
    if point.tokens == most:
      groups[point.family, point.chunk_size].append(point)
  keys = sorted(groups, key=lambda key: (key[0] != "token", key))
  header = ("N", *(series_title(*key) for key in keys))
  columns = []
  for key in keys:
    sizes = sorted({point.parameters for point in groups[key]})
    columns.append(
      [[one for one in groups[key] if one.parameters == size] for size in sizes]
    )
  rows = []
  for i in range(max(map(len, columns))):
    there = [column[i] if i < len(column) else [] for column in columns]
    sizes = [point.parameters for cell in there for point in cell]
    rows.append(
      (
        " to ".join(dict.fromkeys((count(min(sizes)), count(max(sizes))))),
        *(_mean(cell, answer) for cell in there),
      )
    )
  return header, rows


def markdown(answer: Answer) -> str:
  """Tables and sentences for a page of documentation."""
  it = quantity_of(answer.quantity)
  kept = [one for one in answer.points if it.censored_reason(one) is None]
  parts = []
  if kept:
    most = max(point.tokens for point in kept)
    parts.append(
      f"{it.label} after {count(most)} tokens, ± one standard error:"
    )
    parts.append(_markdown_table(scores_table(answer)))
  parts += sentences(answer)
  if answer.candidates:
    parts.append(
      "The laws, by how far they miss the L of runs that they have not seen"
      " (root mean square of ln L; every size, the largest budget and every K"
      " left out in turn; “best in” is the share of bootstrap samples):"
    )
    parts.append(_markdown_table(laws_table(answer)))
    if answer.law is not None:
      parts.append(
        f"Of the first, with 90 % bands: {parameters_words(answer)}."
      )
  return "\n\n".join(_wrapped(part) for part in parts) + "\n"


def parameters_words(answer: Answer) -> str:
  """The parameters of the best form with their bands."""
  assert answer.law is not None
  return ", ".join(
    f"{name} = {value:.3g} ({low:.3g} to {high:.3g})"
    for name, (value, low, high) in answer.law.parameters().items()
  )


def capitalised(words: str) -> str:
  return words[0].upper() + words[1:]


def _movement(answer: Answer) -> str:
  """How the best K moves with the budget."""
  first, last = answer.best[0], answer.best[-1]
  if first.high < last.low:
    return "The best K rises with compute: the two bands lie apart."
  if last.high < first.low:
    return "The best K falls with compute: the two bands lie apart."
  falling = [k for k in first.gaps if first.gaps[k][2] < last.gaps[k][1]]
  rising = [k for k in first.gaps if first.gaps[k][1] > last.gaps[k][2]]
  moved = (
    "whether the best K moves with compute is not resolved: the bands meet"
  )
  if falling:
    return (
      f"A larger K falls behind as compute grows (K = "
      f"{', '.join(map(str, falling))}: the bands lie apart); {moved}."
    )
  if rising:
    return (
      f"A larger K catches up as compute grows (K = "
      f"{', '.join(map(str, rising))}: the bands lie apart); {moved}."
    )
  return f"{capitalised(moved)}."


def _best(best) -> str:
  budget = f"{best.training_flops:.2g}"
  return f"K = {best.chunk_size} ({best.low} to {best.high}) at {budget}"


def _percent(band: tuple[float, float, float]) -> str:
  """A difference of ln L as a share of L, with its band."""
  value, low, high = (f"{100 * math.expm1(it):.1f}" for it in band)
  return f"{value} % ({low} to {high})"


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


def _markdown_table(table: Table) -> str:
  header, rows = table
  lines = [header, ("---",) * len(header), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _wrapped(part: str) -> str:
  """Lines of at most 80 characters; a table stays as it is."""
  if part.startswith("|"):
    return part
  return textwrap.fill(part, 80, break_long_words=False, break_on_hyphens=False)
