"""The part of a report that is about the points of a sweep.

First the answer, in one figure and a few sentences; then the laws it rests on;
then all else.
"""

from collections import defaultdict
from collections.abc import Sequence

from calm_jax.scaling import sweep_plots
from calm_jax.scaling.answer import Answer
from calm_jax.scaling.answer_tables import (
  best_table,
  laws_table,
  scores_table,
)
from calm_jax.scaling.answer_words import capitalised, sentences
from calm_jax.scaling.drawing import count, to_svg
from calm_jax.scaling.isoflop import isoflop_parabolas
from calm_jax.scaling.law_sections import add_laws, add_parameters
from calm_jax.scaling.page import Page, with_error
from calm_jax.scaling.points import (
  SCORES,
  Point,
  in_bytes,
  series_title,
)
from calm_jax.scaling.quantities import quantity_of

_WHOLE = "whole_training_flops"


def add_points(page: Page, answer: Answer) -> None:
  """The answer for K, the laws, other scores and costs, and the table."""
  _add_answer(page, answer)
  _add_forms(page, answer)
  _add_scores(page, answer)
  add_laws(page, answer)
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
    " largest budget and without a K, where the rest suffices for a fit, and"
    " predicts what was left out: the root mean square of its error in ln L, a"
    " place with several seeds counting as one, and the geometric mean over all"
    " that was left out. The first is used above. “Best in” is the share of"
    " bootstrap samples."
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
      add_parameters(page, candidate.law)


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
    caption += (
      " Curves: the law's best size, with 90 % bands; level where the budget"
      " buys more tokens than any of its models was trained on."
    )
  page.figure(name, to_svg(figure, name), caption)


def _add_isoflops(page: Page, points: Sequence[Point]) -> None:
  page.section("IsoFLOP curves")
  page.text(
    "Sizes at one training budget, the autoencoder's left out, each read off"
    " between its own two nearest runs, and a parabola of L in ln N through"
    " them."
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
