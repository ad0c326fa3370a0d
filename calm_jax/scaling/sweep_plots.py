"""Pictures of a sweep: each a pure function of points and laws to a figure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from calm_jax.scaling.best_chunk import Curve
from calm_jax.scaling.drawing import (
  Figure,
  color,
  count,
  count_axis,
  hover,
  legend,
  marker,
  new_figure,
  styled,
)
from calm_jax.scaling.forms import features
from calm_jax.scaling.isoflop import IsoFlop
from calm_jax.scaling.law import Law, ends
from calm_jax.scaling.points import Point, in_bytes, series_title
from calm_jax.scaling.quantities import quantity_of
from calm_jax.scaling.seeds import SeedScatter, score_error

COSTS = {
  "training_flops": "training FLOPs",
  "whole_training_flops": "training FLOPs, autoencoder included",
  "shared_training_flops": "training FLOPs, autoencoder shared",
  "inference_flops": "inference FLOPs a token, one sample",
  "inference_flops_sampled": "inference FLOPs a token, T = 0.5",
  "inference_flops_per_byte": "inference FLOPs a byte, one sample",
  "inference_flops_sampled_per_byte": "inference FLOPs a byte, T = 0.5",
}


@styled
def scores_over_flops(
  points: Sequence[Point],
  quantity: str = "brier_lm",
  cost: str = "whole_training_flops",
  *,
  curves: Mapping[tuple[str, int], Curve] | None = None,
  scatters: Mapping[str, SeedScatter | None] | None = None,
) -> Figure:
  """A score with its error against a cost.

  Args:
    points: of any family; those without the score or the cost are left out.
    quantity: see `quantities`.
    cost: a number of `Point` that counts FLOPs, of `COSTS`.
    curves: of the law, with its band, by family and K. Where there is none, a
      line joins the best runs up to each cost.
    scatters: of seeds, by family; they enter the errors.

  Returns:
    The figure, one colour a family and K. A mark tells its run.
  """
  figure, (axes,) = new_figure(1)
  curves, scatters, it = curves or {}, scatters or {}, quantity_of(quantity)
  groups = defaultdict(list)
  for point in points:
    if it.censored_reason(point) is None and getattr(point, cost) > 0:
      groups[point.family, point.chunk_size].append(point)
  for i, (key, members) in enumerate(sorted(groups.items())):
    style = {"color": color(i), "marker": marker(i), "markersize": 4}
    sign = -1 if it.best is None else 1  # the better is the higher
    members.sort(key=lambda one: (getattr(one, cost), -sign * it.score(one)))
    x = np.array([getattr(point, cost) for point in members])
    y = np.array([it.score(point) for point in members])
    errors = [
      score_error(point, quantity, scatters.get(point.family))
      for point in members
    ]
    axes.errorbar(x, y, errors, fmt="none", capsize=2, ecolor=color(i))
    for j, point in enumerate(members):
      (mark,) = axes.plot(
        x[j : j + 1],
        y[j : j + 1],
        linestyle="none",
        label=None if j else series_title(*key),
        **style,
      )
      hover(mark, _words(point, y[j], errors[j], quantity))
    if key in curves:
      curve, score_fn = curves[key], np.vectorize(it.score_of_loss)
      band = [score_fn(end) for end in curve.band()]
      budgets = curve.training_flops
      axes.fill_between(budgets, *band, color=color(i), alpha=0.2, linewidth=0)
      axes.plot(budgets, score_fn(curve.losses), color=color(i), linewidth=1)
    else:
      best = np.maximum.accumulate(sign * y) == sign * y
      axes.plot(x[best], y[best], color=color(i), linewidth=1)
  axes.set_xscale("log")
  axes.set(xlabel=COSTS[cost], ylabel=it.label)
  legend(axes, bool(groups))
  return figure


def _words(point: Point, score: float, error: float, quantity: str) -> str:
  return (
    f"{point.name}: {quantity_of(quantity).label} {score:.3g} ± {error:.2g},"
    f" N = {count(point.parameters)}, {count(point.tokens)} tokens,"
    f" {point.whole_training_flops:.2g} training FLOPs, autoencoder included"
  )


@styled
def law_with_bands(law: Law) -> Figure:
  """The law's score over the training text with its 90 % bands, by K."""
  chunk_sizes = sorted({point.chunk_size for point in law.points})
  figure, panels = new_figure(len(chunk_sizes), share_y=True)
  unit = "bytes" if in_bytes(law.points) else "tokens"
  factor = law.points[0].bytes_per_token if unit == "bytes" else 1.0
  counts = [factor * point.tokens for point in law.points]
  data, it = (
    np.geomspace(min(counts), max(counts), 40),
    quantity_of(law.quantity),
  )
  for axes, chunk_size in zip(panels, chunk_sizes, strict=True):
    # Models of one shape have other N at another K.
    sizes = {p.parameters for p in law.points if p.chunk_size == chunk_size}
    for i, size in enumerate(sorted(sizes)):
      mine = [
        point
        for point in law.points
        if (point.parameters, point.chunk_size) == (size, chunk_size)
      ]
      x = features(
        size,
        data,
        chunk_size,
        mine[0].backbone_parameters or np.nan,
        mine[0].autoencoder_parameters,
      )
      band = law.score(np.quantile(law.sampled_losses(x), ends(0.9), axis=0))
      axes.fill_between(data, *band, color=color(i), alpha=0.2, linewidth=0)
      axes.plot(data, law.score(law.losses(x)), color=color(i), linewidth=1)
      axes.errorbar(
        [factor * point.tokens for point in mine],
        [it.score(point) for point in mine],
        [score_error(point, law.quantity, law.seeds) for point in mine],
        color=color(i),
        marker=marker(i),
        markersize=4,
        capsize=2,
        linestyle="none",
        label=f"N = {count(size)}",
      )
    title = series_title(law.family, chunk_size)
    count_axis(axes, data)
    axes.set(xlabel=f"training {unit}", ylabel=it.label, title=title)
    legend(axes, True)
  return figure


@styled
def isoflop_curves(fits: Sequence[IsoFlop], quantity: str) -> Figure:
  """Scores of the sizes at each budget, their parabola and its best size."""
  figure, (axes,) = new_figure(1)

  it = quantity_of(quantity)
  score = np.vectorize(it.score_of_loss)

  for i, fit in enumerate(fits):
    sizes = np.geomspace(fit.parameters.min(), fit.parameters.max(), 60)
    parabola = np.polynomial.polynomial.Polynomial(fit.coefficients)
    axes.plot(
      sizes, score(parabola(np.log(sizes))), color=color(i), linewidth=1
    )
    axes.plot(
      fit.parameters,
      score(fit.losses),
      color=color(i),
      marker=marker(i),
      markersize=4,
      linestyle="none",
      label=f"{fit.training_flops:.2g} FLOPs",
    )
    if fit.best_parameters:
      axes.axvline(fit.best_parameters, color=color(i), linestyle=":")
  count_axis(axes, np.concatenate([fit.parameters for fit in fits]))
  axes.set(xlabel="parameters", ylabel=it.label)
  legend(axes, bool(fits))
  return figure
