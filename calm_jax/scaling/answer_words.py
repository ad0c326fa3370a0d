"""The answer in sentences, for the page and for documentation.

Every number about K stands with its 90 % band, and what the points do not say
is said.
"""

import math
import textwrap
from collections.abc import Sequence

from calm_jax.scaling.answer import Answer
from calm_jax.scaling.answer_tables import (
  Table,
  laws_table,
  parameters_words,
  scores_table,
)
from calm_jax.scaling.best_chunk import Band, BestChunk
from calm_jax.scaling.drawing import count
from calm_jax.scaling.estimator import RUN_SCATTER
from calm_jax.scaling.points import families
from calm_jax.scaling.quantities import quantity_of


def sentences(answer: Answer) -> list[str]:
  """What follows for K, and what does not; the answer first."""
  words = []
  if answer.best:
    words.append(_lead(answer))
    if _there(answer):
      words.append(_token_words(answer))
    words.append(_compared(answer.best, answer.quantity))
    words.append(_movement(answer))
    if answer.best_shared:
      words.append(
        "With the autoencoder shared by the models that use it the best is"
        f" {_best_words(answer.best_shared)} training FLOPs."
      )
    words.append(_second(answer))
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
    taken = f"{RUN_SCATTER:.0%} of L is taken for it where a law weighs runs"
    if scatter is None:
      words.append(
        f"{title}: no two runs differ by their seed alone, so the ± of a score"
        " is that of the evaluated text alone and does not hold what another"
        f" seed would change; {taken}."
      )
    elif scatter.is_of_copies:
      words.append(
        f"{title}: runs that differ by their seed alone have one and the same"
        " L, as copies of one run have, and measure nothing: the ± of a score"
        f" is that of the evaluated text alone, and {taken}."
      )
    else:
      words.append(
        f"{title}: another seed changes L by {scatter.value:.2%} (90 % band"
        f" {scatter.low:.2%} to {scatter.high:.2%}; {scatter.degrees} degrees"
        " of freedom), taken to be the same at all places. It is in the ± of a"
        " score and weighs the runs of a law."
      )
  if answer.law is not None or answer.token_law is not None:
    words.append(
      "The bands of a law are those of how runs scatter about it, by their"
      " seeds and by the part of the text's error that differs between places."
      " What other text would change for all runs together is in the ± of a"
      " score alone"
      + (
        "; all seeds share the autoencoder of their K, and what another one"
        " would change is in neither."
        if calms
        else "."
      )
    )
  return words


def markdown(answer: Answer) -> str:
  """Tables and sentences for a page of documentation, the answer first."""
  it = quantity_of(answer.quantity)
  kept = [one for one in answer.points if it.censored_reason(one) is None]
  parts = sentences(answer)
  if kept:
    most = max(point.tokens for point in kept)
    table = [
      f"{it.label} after {count(most)} tokens, ± one standard error:",
      _markdown_table(scores_table(answer)),
    ]
    # Below what leads, and the bands of that.
    first = bool(answer.best) + bool(_there(answer))
    parts[first:first] = table
  if answer.candidates:
    parts.append(
      "The laws, by how far they miss the L of runs that they have not seen"
      " (root mean square of ln L, a place with several seeds counting as one;"
      " each size, the largest budget and each K left out in turn where the"
      " rest suffices; “best in” is the share of bootstrap samples):"
    )
    parts.append(_markdown_table(laws_table(answer)))
    if answer.law is not None:
      parts.append(
        f"Of the first, with 90 % bands: {parameters_words(answer.law)}"
      )
  return "\n\n".join(_wrapped(part) for part in parts) + "\n"


def capitalised(words: str) -> str:
  return words[0].upper() + words[1:]


def _lead(answer: Answer) -> str:
  """How many tokens a vector should carry, and which family is ahead."""
  sizes = [best.chunk_size for best in answer.best]
  if len(set(sizes)) == 1:
    one = "One token" if sizes[0] == 1 else f"{sizes[0]} tokens"
    lead = f"{one} a vector {'is' if sizes[0] == 1 else 'are'} best"
  else:
    lead = (
      f"Between {min(sizes)} and {max(sizes)} tokens a vector are best,"
      " depending on the budget"
    )
  gaps = [gap for _, gap in _there(answer)]
  if gaps and all(low > 0 for _, low, _ in gaps):
    lead += ", and the token model is ahead of every CALM at equal cost"
  elif gaps and all(high < 0 for _, _, high in gaps):
    lead += ", and the best CALM is ahead of the token model at equal cost"
  elif gaps:
    lead += (
      "; whether the token model or the best CALM is ahead at equal cost is not"
      " the same, or not resolved, at all budgets"
    )
  return (
    f"{lead}. Each model pays for all of its autoencoder, and with its 90 %"
    f" band the best is {_best_words(answer.best)} training FLOPs."
  )


def _token_words(answer: Answer) -> str:
  return (
    "L of the best K, compared with that of the token model at equal cost: "
    + ", ".join(
      f"{_percent(gap)} at {cost:.2g}" for cost, gap in _there(answer)
    )
    + " training FLOPs."
  )


def _there(answer: Answer) -> list[tuple[float, Band]]:
  """Budgets at which a token model was trained, with its gap."""
  return [
    (best.training_flops, gap)
    for best, gap in zip(answer.best, answer.token_gaps, strict=False)
    if gap[0] == gap[0]  # no nan
  ]


def _compared(found: Sequence[BestChunk], quantity: str) -> str:
  """Each K beside the smallest, at both ends of the budgets."""
  first, last = found[0], found[-1]
  return (
    f"L = {quantity_of(quantity).unit}, compared with that of K ="
    f" {min(first.shares)} at equal cost: "
    + "; ".join(
      f"with K = {k} {_percent(first.gaps[k])} at {first.training_flops:.2g}"
      f" training FLOPs and {_percent(last.gaps[k])} at"
      f" {last.training_flops:.2g}"
      for k in first.gaps
    )
    + "."
  )


def _movement(answer: Answer) -> str:
  """How the gaps between K, and the best K, move with the budget."""
  first, last = answer.best[0], answer.best[-1]
  smallest = min(first.shares)
  words = []
  for title, is_meant in (
    ("falls behind", lambda low, high: low > 0),
    ("catches up with", lambda low, high: high < 0),
    ("", lambda low, high: low <= 0 <= high),
  ):
    mine = {k: it for k, it in answer.changes.items() if is_meant(*it[1:])}
    if mine and title:
      words += [
        f"K = {k} {title} K = {smallest}, the ratio of their L becoming"
        f" {_percent(it)}"
        for k, it in mine.items()
      ]
    elif mine:
      which = " or ".join(f"K = {k}" for k in mine)
      words.append(
        f"whether {which} falls behind K = {smallest} or catches up is not"
        " resolved"
      )
  if first.high < last.low or last.high < first.low:
    way = "rises" if first.high < last.low else "falls"
    words.append(f"the best K {way}: the two bands lie apart")
  elif first.low == first.high == last.low == last.high:
    words.append("the best K stays what it is")
  else:
    words.append("whether the best K moves is not resolved: the bands meet")
  return (
    f"As the budget grows from {first.training_flops:.2g} to"
    f" {last.training_flops:.2g} training FLOPs: {'; '.join(words)}."
  )


def _second(answer: Answer) -> str:
  """What the next form would have answered."""
  if answer.second is None or not answer.best_of_second:
    return (
      "No second form is identified: how far this depends on the form of the"
      " law is not known."
    )
  return (
    f"By the form that predicts second best, {answer.second.form.formula}, the"
    f" best is {_best_words(answer.best_of_second)} training FLOPs;"
    f" {_compared(answer.best_of_second, answer.quantity)}"
  )


def _best_words(found: Sequence[BestChunk]) -> str:
  """At both ends of the budgets."""
  return " and ".join(
    f"K = {best.chunk_size} ({best.low} to {best.high}) at"
    f" {best.training_flops:.2g}"
    for best in (found[0], found[-1])
  )


def _percent(band: Band) -> str:
  """A difference of ln L as a share of L, with its band."""
  value, low, high = (100 * math.expm1(it) for it in band)
  if low <= 0 <= high:
    return f"not resolved ({low:.1f} to {high:.1f} %)"
  if high < 0:
    return f"{-value:.1f} % lower ({-high:.1f} to {-low:.1f})"
  return f"{value:.1f} % higher ({low:.1f} to {high:.1f})"


def _markdown_table(table: Table) -> str:
  header, rows = table
  lines = [header, ("---",) * len(header), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _wrapped(part: str) -> str:
  """Lines of at most 80 characters; a table stays as it is."""
  if part.startswith("|"):
    return part
  return textwrap.fill(part, 80, break_long_words=False, break_on_hyphens=False)
