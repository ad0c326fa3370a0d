"""The part of a report that is about the points of a sweep."""

from collections import defaultdict

from calm_jax.scaling import plots
from calm_jax.scaling.allocation import (
  Candidate,
  isoflop_parabolas,
  rank_allocations,
)
from calm_jax.scaling.law import Law, fit_law, predict_largest
from calm_jax.scaling.page import Page, with_error
from calm_jax.scaling.points import (
  QUANTITIES,
  SCORES,
  Point,
  families,
  series_title,
)

_COSTS = ("whole_training_flops", "inference_flops", "inference_flops_sampled")


def add_points(page: Page, points: list[Point]) -> None:
  """Scores against cost, laws with bands, IsoFLOP curves, and the table."""
  _add_scores(page, points)
  _add_laws(page, points)
  _add_isoflops(page, points)
  _add_table(page, points)


def _add_scores(page: Page, points: list[Point]) -> None:
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
    "Bars are standard errors over the evaluated text; they do not hold what"
    " another seed would change. A line joins the best runs up to each cost."
    " FLOPs count every multiplication that is executed, the optimizer's among"
    " them, and to each CALM's all of its autoencoder's training where the"
    " table has it, though the models of one K share it; laws, allocations and"
    " IsoFLOP curves leave the autoencoder's out. One sample draws"
    " each chunk once; at T = 0.5 a CALM draws and counts 200 candidates, and"
    " only the cost changes here, not the score."
  )
  for quantity in ("brier_lm", "brier_1"):
    for cost in _COSTS:
      if any(
        quantity in point.scores and getattr(point, cost) > 0
        for point in points
      ):
        figure = plots.scores_over_flops(points, quantity, cost)
        name = f"{quantity}-{cost}"
        caption = f"{plots.LABELS[quantity]} against {plots.LABELS[cost]}."
        page.figure(name, plots.to_svg(figure, name), caption)


def _add_laws(page: Page, points: list[Point]) -> None:
  for quantity in QUANTITIES:
    for family, model in families().items():
      mine = [
        point
        for point in points
        if point.family == family
        and (quantity != "cross_entropy" or quantity in point.scores)
      ]
      if mine:
        title = _capitalised(model.title)
        page.section(f"{title}: law of {plots.LABELS[quantity]}")
        _add_law(page, mine, quantity)


def _add_law(page: Page, points: list[Point], quantity: str) -> None:
  try:
    law = fit_law(points, quantity)
  except ValueError as error:
    page.text(f"No law: {error}")
    return
  formula, words = "L = E + A/N^a + B/D^b", ""
  if law.uses_chunk_size:
    formula = "L = E + A·K^p/N^a + B·K^q/D^b"
    words = (
      " A larger K acts as if the model had N/K^(p/a) parameters and D/K^(q/b)"
      " tokens: p above 0 says that it asks for a larger model, q above 0 that"
      " it asks for more text."
    )
  loss = {"brier_lm": "−ln(BrierLM/100)", "brier_1": "−ln(Brier-1)"}.get(
    quantity, "nats a token"
  )
  page.text(
    f"{formula}, L in {loss}, N trained parameters, D training tokens; E is"
    f" what neither reduces.{words}"
  )
  page.text(
    f"{len(law.points)} points count and {len(law.censored)} do not. 90 %"
    f" bands are from {len(law.samples)} bootstrap samples over runs; a run"
    f" scatters by {law.scatter:.2g} in ln L."
  )
  parameters = law.parameters()
  if parameters["E"][1] == 0:
    page.text(
      "The band of E reaches 0, the least it can be: these points do not say"
      " how good a model can become at most."
    )
  name = f"law-{law.family}-{quantity}"
  svg = plots.to_svg(plots.law_with_bands(law), name)
  page.figure(name, svg, "Runs, the law, and its 90 % bands.")
  page.table(
    ("", "estimate", "90 % band"),
    [
      (name, value, f"{low:.4g} to {high:.4g}")
      for name, (value, low, high) in parameters.items()
    ],
  )
  _add_held_out(page, points, quantity)
  if law.censored:
    page.text("Points that do not count:")
    page.table(
      ("point", "why"), [(point.name, why) for point, why in law.censored]
    )
  _add_allocations(page, law)


def _add_held_out(page: Page, points: list[Point], quantity: str) -> None:
  try:
    predictions = predict_largest(points, quantity)
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
  has_likelihoods = families()[law.family].has_likelihoods
  candidates = {
    (point.parameters, point.chunk_size): Candidate(
      f"N = {plots.count(point.parameters)}"
      + ("" if has_likelihoods else f", K = {point.chunk_size}"),
      point.parameters,
      point.training_flops / point.tokens,
      point.chunk_size,
    )
    for point in law.points
    if point.training_flops > 0
  }
  if not candidates:
    return
  spent = max(point.training_flops for point in law.points)
  page.text(
    "The models of this sweep on as many tokens as a budget buys, best first by"
    " the law. “Best in” is the share of bootstrap samples; an extrapolated row"
    " lies outside the points. For other models and budgets call"
    " calm_jax.scaling.allocation.rank_allocations."
  )
  for budget in (spent, 10 * spent):
    ranked = rank_allocations(law, list(candidates.values()), budget)
    page.text(f"{budget:.2g} training FLOPs:")
    page.table(
      (
        *("model", "tokens", plots.LABELS[law.quantity], "L, 90 % band"),
        *("best in", ""),
      ),
      [
        (
          one.candidate.name,
          plots.count(one.tokens),
          one.score,
          f"{one.low:.4g} to {one.high:.4g}",
          f"{one.win_share:.0%}",
          "extrapolated" if one.is_extrapolated else "",
        )
        for one in ranked[:5]
      ],
    )


def _add_isoflops(page: Page, points: list[Point]) -> None:
  page.section("IsoFLOP curves")
  page.text(
    "Sizes at one training budget, each read off between its own two nearest"
    " runs, and a parabola of L in ln N through them."
  )
  groups = defaultdict(list)
  for point in points:
    groups[point.family, point.chunk_size].append(point)
  for (family, chunk_size), mine in sorted(groups.items()):
    title = _capitalised(series_title(family, chunk_size))
    try:
      fits = isoflop_parabolas(mine, "brier_lm")
    except ValueError as error:
      page.text(f"{title}: none, {error}")
      continue
    name = f"isoflop-{family}-{chunk_size}"
    figure = plots.isoflop_curves(fits, "brier_lm")
    caption = f"{title}. Dotted: the best size, if it is not at an end."
    page.figure(name, plots.to_svg(figure, name), caption)


def _add_table(page: Page, points: list[Point]) -> None:
  page.section("All points")
  scores = [
    name for name in SCORES if any(name in point.scores for point in points)
  ]
  page.table(
    (
      *("point", "family", "N", "D", "K", "seed", "training FLOPs"),
      *("autoencoder's", *scores),
    ),
    [
      (
        point.name,
        point.family,
        plots.count(point.parameters),
        plots.count(point.tokens),
        point.chunk_size,
        point.seed,
        f"{point.training_flops:.3g}",
        f"{point.autoencoder_flops:.3g}",
        *(
          with_error(point.scores.get(name), point.errors.get(name))
          for name in scores
        ),
      )
      for point in points
    ],
  )


def _capitalised(title: str) -> str:
  return title[0].upper() + title[1:]
