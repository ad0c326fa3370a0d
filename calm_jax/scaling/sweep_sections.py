"""The part of a report that is about the points of a sweep.

First the answer, in one figure and a few sentences; then the laws it rests on;
then all else.
"""

from collections import defaultdict
from collections.abc import Sequence

from calm_jax.scaling import sweep_plots
from calm_jax.scaling.allocation import candidates_of, rank_allocations
from calm_jax.scaling.answer import Answer
from calm_jax.scaling.answer_words import (
  best_table,
  capitalised,
  laws_table,
  scores_table,
  sentences,
)
from calm_jax.scaling.drawing import count, to_svg
from calm_jax.scaling.held_out import predict_largest
from calm_jax.scaling.isoflop import isoflop_parabolas
from calm_jax.scaling.law import Law, fit_law
from calm_jax.scaling.page import Page, with_error
from calm_jax.scaling.points import (
  SCORES,
  Point,
  families,
  in_bytes,
  series_title,
)
from calm_jax.scaling.quantities import QUANTITIES, quantity_of

_WHOLE = "whole_training_flops"


def add_points(page: Page, answer: Answer) -> None:
  """The answer for K, the laws, other scores and costs, and the table."""
  _add_answer(page, answer)
  _add_forms(page, answer)
  _add_scores(page, answer)
  _add_laws(page, answer)
  _add_isoflops(page, answer.points)
  _add_table(page, answer.points)


def _add_answer(page: Page, answer: Answer) -> None:
  page.section("How many tokens should a vector carry?")
  _add_figure(page, answer, _WHOLE)
  for words in sentences(answer):
    page.text(words)
  if answer.best:
    page.table(*best_table(answer))
    page.text(
      "“Best in” is the share of bootstrap samples. Budgets are those at which"
      " every K has a model that was trained on about as many tokens as the"
      " budget buys."
    )
  it = quantity_of(answer.quantity)
  if any(it.censored_reason(point) is None for point in answer.points):
    page.text("After the largest budget, ± one standard error:")
    page.table(*scores_table(answer))


def _add_forms(page: Page, answer: Answer) -> None:
  if not answer.candidates:
    return
  page.section("The laws side by side")
  page.text(
    "Each form of the law of CALMs is fitted without a size, without the"
    " largest budget and without a K, and predicts what was left out: the root"
    " mean square of its error in ln L, and the geometric mean over all that"
    " was left out. The first is used above."
  )
  page.table(*laws_table(answer))
  page.text(
    f"N are the trained parameters, D the "
    f"{_unit(answer)} of training. P is the"
    " backbone's share of N; the rest works on tokens, and the frozen"
    " autoencoder with it, whose parameters stand beside N(1−P). DLCM's offsets"
    " of N and D are 0 here, and its two exponents of N are one: the points"
    " cannot tell them apart, because both parts of a model grow together."
  )
  for candidate in answer.candidates:
    if candidate.law is not None:
      page.text(candidate.form.words)
      _add_parameters(page, candidate.law)


def _unit(answer: Answer) -> str:
  return "bytes" if in_bytes(answer.points) else "tokens"


def _add_scores(page: Page, answer: Answer) -> None:
  page.section("Scores against cost")
  page.text(
    "A CALM predicts K tokens at once, as one vector that a frozen autoencoder"
    " turns into text; the token model predicts one after another."
    " BrierLM needs only samples and so scores both: 0 for noise, 100 for a"
    " perfect prediction. It is the geometric mean of Brier-1 to Brier-4, those"
    " of the next 1 to 4 tokens, in percent. All models are scored at the same"
    " positions, from what they draw at temperature T = 1."
  )
  page.text(
    "FLOPs count every multiplication that is executed: of training the frozen"
    " encoder's, the head's samples' and the optimizer's, too. To each CALM's"
    " is added all of its autoencoder's training where the table has it, or its"
    " share where that is said. One sample draws each chunk once; at T = 0.5 a"
    " CALM draws and counts 200 candidates, and only the cost changes here, not"
    " the score. Curves are the best size of each K by the law, with 90 %"
    " bands, within what was trained; without a law a line joins the best runs"
    " up to each cost. A mark tells its run where the mouse rests."
  )
  unit = "_per_byte" if in_bytes(answer.points) else ""
  _add_figure(page, answer, "shared_training_flops")
  for cost in (f"inference_flops{unit}", f"inference_flops_sampled{unit}"):
    _add_figure(page, answer, cost)
  if any("brier_1" in point.scores for point in answer.points):
    _add_figure(page, answer, _WHOLE, quantity="brier_1")


def _add_figure(
  page: Page, answer: Answer, cost: str, quantity: str = "brier_lm"
) -> None:
  it = quantity_of(quantity)
  if not any(
    it.censored_reason(point) is None and getattr(point, cost) > 0
    for point in answer.points
  ):
    return
  curves = {}
  if quantity == answer.quantity and "training" in cost:
    curves = answer.curves(is_shared=cost != _WHOLE)
  figure = sweep_plots.scores_over_flops(
    answer.points,
    quantity,
    cost,
    curves=curves,
    scatters=answer.scatters if quantity == answer.quantity else None,
  )
  name = f"{quantity}-{cost}"
  caption = f"{it.label} against {sweep_plots.COSTS[cost]}."
  if curves:
    caption += " Curves: the law's best size, with 90 % bands."
  page.figure(name, to_svg(figure, name), caption)


def _add_laws(page: Page, answer: Answer) -> None:
  """A law of every quantity and family, by the form that predicts best."""
  form = answer.law.form if answer.law else None
  for quantity in _told_once(answer):
    for family, model in families().items():
      mine = [point for point in answer.points if point.family == family]
      if any(quantity.column in point.scores for point in mine):
        page.section(f"{capitalised(model.title)}: law of {quantity.label}")
        of_chunks = form if not model.has_likelihoods else None
        _add_law(page, mine, quantity.name, of_chunks)


def _told_once(answer: Answer):
  """The quantities, cross-entropy in bits a byte alone where that is known."""
  spare = "cross_entropy" if in_bytes(answer.points) else "bits_per_byte"
  return [it for it in QUANTITIES.values() if it.name != spare]


def _add_law(page: Page, points: list[Point], quantity: str, form) -> None:
  try:
    law = fit_law(points, quantity, form=form)
  except ValueError as error:
    page.text(f"No law: {error}")
    return
  unit = "bytes" if in_bytes(law.points) else "tokens"
  page.text(
    f"{law.form.formula}, L in {quantity_of(quantity).unit}, N trained"
    f" parameters, D {unit} of training; E is what neither reduces."
    f" {law.form.words}"
  )
  page.text(
    f"{len(law.points)} points count and {len(law.censored)} do not. 90 %"
    f" bands are from {len(law.samples)} bootstrap samples over the places of"
    f" the sweep; a run scatters by {law.scatter:.2g} in ln L."
  )
  if law.parameters()["E"][1] == 0:
    page.text(
      "The band of E reaches 0, the least it can be: these points do not say"
      " how good a model can become at most."
    )
  name = f"law-{law.family}-{quantity}"
  svg = to_svg(sweep_plots.law_with_bands(law), name)
  page.figure(name, svg, "Runs, the law, and its 90 % bands.")
  _add_parameters(page, law)
  _add_held_out(page, points, law)
  if law.censored:
    page.text("Points that do not count:")
    page.table(
      ("point", "why"), [(point.name, why) for point, why in law.censored]
    )
  _add_allocations(page, law)


def _add_parameters(page: Page, law: Law) -> None:
  page.table(
    (law.form.formula, "estimate", "90 % band"),
    [
      (name, value, f"{low:.4g} to {high:.4g}")
      for name, (value, low, high) in law.parameters().items()
    ],
  )


def _add_held_out(page: Page, points: list[Point], law: Law) -> None:
  try:
    predictions = predict_largest(points, law.quantity, form=law.form)
  except ValueError as error:
    page.text(f"The largest run cannot be held out: {error}")
    return
  page.text("The largest run, predicted by the law of all others:")
  page.table(
    ("run", "predicted L", "90 % band", "observed L", "in its band"),
    [
      (
        one.point.name,
        one.predicted,
        f"{one.low:.4g} to {one.high:.4g}",
        one.loss,
        "yes" if one.is_inside else "no",
      )
      for one in predictions
    ],
  )


def _add_allocations(page: Page, law: Law) -> None:
  """The best K and size for the largest budget spent, and for ten times it."""
  candidates = candidates_of(law)
  if not candidates:
    return
  spent = max(point.whole_training_flops for point in law.points)
  has_likelihoods = families()[law.family].has_likelihoods
  page.text(
    "The models of this sweep on as many tokens as a budget buys after their"
    " autoencoder, best first by the law. “Best in” is the share of bootstrap"
    " samples; an extrapolated row lies outside the points. For other models"
    " and budgets call calm_jax.scaling.allocation.rank_allocations."
  )
  for budget in (spent, 10 * spent):
    ranked = rank_allocations(law, candidates, budget)
    page.text(f"{budget:.2g} training FLOPs:")
    page.table(
      (
        *("model", "tokens", quantity_of(law.quantity).label),
        *("L, 90 % band", "best in", ""),
      ),
      [
        (
          f"N = {count(one.candidate.parameters)}"
          + ("" if has_likelihoods else f", K = {one.candidate.chunk_size}"),
          count(one.tokens),
          one.score,
          f"{one.low:.4g} to {one.high:.4g}",
          f"{one.win_share:.0%}",
          "extrapolated" if one.is_extrapolated else "",
        )
        for one in ranked[:5]
      ],
    )


def _add_isoflops(page: Page, points: Sequence[Point]) -> None:
  page.section("IsoFLOP curves")
  page.text(
    "Sizes at one training budget, each read off between its own two nearest"
    " runs, and a parabola of L in ln N through them."
  )
  groups = defaultdict(list)
  for point in points:
    groups[point.family, point.chunk_size].append(point)
  for (family, chunk_size), mine in sorted(groups.items()):
    title = capitalised(series_title(family, chunk_size))
    try:
      fits = isoflop_parabolas(mine, "brier_lm")
    except ValueError as error:
      page.text(f"{title}: none, {error}")
      continue
    name = f"isoflop-{family}-{chunk_size}"
    figure = sweep_plots.isoflop_curves(fits, "brier_lm")
    caption = f"{title}. Dotted: the best size, if it is not at an end."
    page.figure(name, to_svg(figure, name), caption)


def _add_table(page: Page, points: Sequence[Point]) -> None:
  page.section("All points")
  scores = [
    name for name in SCORES if any(name in point.scores for point in points)
  ]
  page.table(
    (
      *("point", "family", "N", "D", "K", "seed", "training FLOPs"),
      *("autoencoder's", "FLOPs a byte", "at T = 0.5", *scores),
    ),
    [
      (
        point.name,
        point.family,
        count(point.parameters),
        count(point.tokens),
        point.chunk_size,
        point.seed,
        f"{point.training_flops:.3g}",
        f"{point.autoencoder_flops:.3g}",
        *(
          f"{cost:.3g}" if cost else "not known"
          for cost in (
            point.inference_flops_per_byte,
            point.inference_flops_sampled_per_byte,
          )
        ),
        *(
          with_error(point.scores.get(name), point.errors.get(name))
          for name in scores
        ),
      )
      for point in points
    ],
  )
