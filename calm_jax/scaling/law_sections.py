"""The part of a report that is about the laws of a sweep, one by one."""

from collections.abc import Sequence

from calm_jax.scaling import sweep_plots
from calm_jax.scaling.allocation import candidates_of, rank_allocations
from calm_jax.scaling.answer import Answer
from calm_jax.scaling.answer_tables import (
  given_words,
  is_untold,
  parameters_table,
)
from calm_jax.scaling.answer_words import capitalised
from calm_jax.scaling.drawing import count, to_svg
from calm_jax.scaling.forms import Form
from calm_jax.scaling.largest_run import predict_largest
from calm_jax.scaling.law import Law, fit_law
from calm_jax.scaling.page import Page
from calm_jax.scaling.points import Point, families, in_bytes
from calm_jax.scaling.quantities import QUANTITIES, Quantity, quantity_of


def add_laws(page: Page, answer: Answer) -> None:
  """A law of every quantity and family, by the form that predicts best."""
  form = answer.law.form if answer.law else None
  for quantity in _told_once(answer):
    for family, model in families().items():
      mine = [point for point in answer.points if point.family == family]
      if any(quantity.column in point.scores for point in mine):
        page.section(f"{capitalised(model.title)}: law of {quantity.label}")
        of_chunks = form if not model.has_likelihoods else None
        _add_law(page, mine, quantity.name, of_chunks)


def _told_once(answer: Answer) -> list[Quantity]:
  """The quantities, cross-entropy in bits a byte alone where that is known."""
  spare = "cross_entropy" if in_bytes(answer.points) else "bits_per_byte"
  return [it for it in QUANTITIES.values() if it.name != spare]


def _add_law(
  page: Page, points: Sequence[Point], quantity: str, form: Form | None
) -> None:
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
  add_parameters(page, law)
  _add_held_out(page, points, law)
  if law.censored:
    page.text("Points that do not count:")
    page.table(
      ("point", "why"), [(point.name, why) for point, why in law.censored]
    )
  _add_allocations(page, law)


def add_parameters(page: Page, law: Law) -> None:
  page.table(*parameters_table(law))
  if is_untold(law):
    page.text(f"The points do not tell E from 0.{given_words(law)}")


def _add_held_out(page: Page, points: Sequence[Point], law: Law) -> None:
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
