"""Pictures: each a pure function of data to a matplotlib figure.

matplotlib is imported when the first picture is drawn, without pyplot: no
window, no global state. Figures have no background, and their text and axes
are of one colour that `to_svg` turns into that of the page around it.
"""

import contextlib
import functools
import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import numpy as np

from calm_jax.scaling.allocation import IsoFlop
from calm_jax.scaling.law import Law
from calm_jax.scaling.points import Point, score_of_loss, series_title

LABELS = {
  "brier_lm": "BrierLM",
  "brier_1": "Brier-1",
  "cross_entropy": "cross-entropy (nats a token)",
  "training_flops": "training FLOPs",
  "whole_training_flops": "training FLOPs, autoencoder included",
  "inference_flops": "inference FLOPs a token, one sample",
  "inference_flops_sampled": "inference FLOPs a token, T = 0.5",
}
_INK = "#767676"  # legible on white and on black; see `to_svg`
_COLORS = ("#3b82d6", "#e07b1a", "#2a9d63", "#c2459a", "#8a6fd1", "#b59a12")
_MARKERS = "osD^vP"
_LINES = ("-", "--", ":")  # when the colours are used up
_MAX_LEGEND = 10  # entries; more are no help
_STYLE = {
  "axes.edgecolor": _INK,
  "axes.labelcolor": _INK,
  "axes.titlecolor": _INK,
  "axes.titlesize": "medium",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.facecolor": "none",
  "figure.facecolor": "none",
  "figure.constrained_layout.use": True,
  "grid.alpha": 0.25,
  "grid.color": _INK,
  "legend.frameon": False,
  "legend.labelcolor": _INK,
  "savefig.facecolor": "none",
  "svg.fonttype": "none",
  "svg.hashsalt": "calm_jax",
  "text.color": _INK,
  "xtick.color": _INK,
  "ytick.color": _INK,
}

Figure = Any  # matplotlib.figure.Figure
_Arguments = ParamSpec("_Arguments")


def _styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
  """Draws inside the style above."""

  @functools.wraps(draw)
  def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
    with _style():
      return draw(*args, **kwargs)

  return call


@_styled
def learning_curves(
  curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
  *,
  label: str,
  use_log_scale: bool = False,
) -> Figure:
  """One value over training steps, a line for each run.

  Args:
    curves: name to (steps [n], values [n]).
    label: of the value.
    use_log_scale: on the value's axis; all values must be positive.

  Returns:
    The figure.
  """
  figure, (axes,) = _figure(1)
  for i, (name, (steps, values)) in enumerate(curves.items()):
    style = _LINES[i // len(_COLORS) % len(_LINES)]
    axes.plot(steps, values, style, color=_color(i), label=name, linewidth=1.3)
  if use_log_scale:
    axes.set_yscale("log")
  axes.set(xlabel="step", ylabel=label)
  _legend(axes, len(curves) > 1)
  return figure


@_styled
def scores_over_flops(
  points: Sequence[Point],
  quantity: str = "brier_lm",
  cost: str = "whole_training_flops",
) -> Figure:
  """A score with its error against a cost; the line joins the frontier.

  Args:
    points: of any family; those without the score or the cost are left out.
    quantity: brier_lm, brier_1 or cross_entropy.
    cost: a number of `Point` that counts FLOPs.

  Returns:
    The figure, one colour a family and K.
  """
  figure, (axes,) = _figure(1)
  groups = defaultdict(list)
  for point in points:
    if quantity in point.scores and getattr(point, cost) > 0:
      groups[point.family, point.chunk_size].append(point)
  sign = -1 if quantity == "cross_entropy" else 1  # the better is the higher
  for i, ((family, chunk_size), members) in enumerate(sorted(groups.items())):
    members.sort(
      key=lambda point: (getattr(point, cost), -sign * point.scores[quantity])
    )
    x = np.array([getattr(point, cost) for point in members])
    y = np.array([point.scores[quantity] for point in members])
    errors = [point.errors.get(quantity, 0.0) for point in members]
    name = series_title(family, chunk_size)
    style = {"color": _color(i), "marker": _MARKERS[i % len(_MARKERS)]}
    axes.errorbar(
      x,
      y,
      errors,
      linestyle="none",
      capsize=2,
      label=name,
      markersize=4,
      **style,
    )
    best = np.maximum.accumulate(sign * y) == sign * y
    axes.plot(x[best], y[best], color=_color(i), linewidth=1)
  axes.set_xscale("log")
  axes.set(xlabel=LABELS[cost], ylabel=LABELS[quantity])
  _legend(axes, bool(groups))
  return figure


@_styled
def law_with_bands(law: Law) -> Figure:
  """The law's score over tokens with its 90 % bands, a panel for each K."""
  chunk_sizes = sorted({point.chunk_size for point in law.points})
  figure, panels = _figure(len(chunk_sizes), share_y=True)
  token_counts = [point.tokens for point in law.points]
  tokens = np.geomspace(min(token_counts), max(token_counts), 40)
  for axes, chunk_size in zip(panels, chunk_sizes, strict=True):
    # Models of one shape have other N at another K.
    sizes = {p.parameters for p in law.points if p.chunk_size == chunk_size}
    for i, size in enumerate(sorted(sizes)):
      samples = law.sampled_losses(size, tokens, chunk_size)
      ends = law.score(np.quantile(samples, (0.05, 0.95), axis=0))
      middle = law.score(law.losses(size, tokens, chunk_size))
      axes.fill_between(tokens, *ends, color=_color(i), alpha=0.2, linewidth=0)
      axes.plot(tokens, middle, color=_color(i), linewidth=1)
      mine = [
        point
        for point in law.points
        if (point.parameters, point.chunk_size) == (size, chunk_size)
      ]
      axes.errorbar(
        [point.tokens for point in mine],
        [point.scores[law.quantity] for point in mine],
        [point.errors.get(law.quantity, 0.0) for point in mine],
        color=_color(i),
        marker=_MARKERS[i % len(_MARKERS)],
        markersize=4,
        capsize=2,
        linestyle="none",
        label=f"N = {count(size)}",
      )
    title = series_title(law.family, chunk_size)
    _count_axis(axes, tokens)
    axes.set(xlabel="training tokens", ylabel=LABELS[law.quantity], title=title)
    _legend(axes, True)
  return figure


@_styled
def isoflop_curves(fits: Sequence[IsoFlop], quantity: str) -> Figure:
  """Scores of the sizes at each budget, their parabola and its best size."""
  figure, (axes,) = _figure(1)

  def score(losses: np.ndarray) -> np.ndarray:
    return np.array([score_of_loss(loss, quantity) for loss in losses])

  for i, fit in enumerate(fits):
    sizes = np.geomspace(fit.parameters.min(), fit.parameters.max(), 60)
    parabola = np.polynomial.polynomial.Polynomial(fit.coefficients)
    axes.plot(
      sizes, score(parabola(np.log(sizes))), color=_color(i), linewidth=1
    )
    axes.plot(
      fit.parameters,
      score(fit.losses),
      color=_color(i),
      marker=_MARKERS[i % len(_MARKERS)],
      markersize=4,
      linestyle="none",
      label=f"{fit.training_flops:.2g} FLOPs",
    )
    if fit.best_parameters:
      axes.axvline(fit.best_parameters, color=_color(i), linestyle=":")
  _count_axis(axes, np.concatenate([fit.parameters for fit in fits]))
  axes.set(xlabel="parameters", ylabel=LABELS[quantity])
  _legend(axes, bool(fits))
  return figure


@_styled
def accuracy_over_collision(
  curves: Mapping[str, Sequence[tuple[str, float, float]]],
) -> Figure:
  """How often samples are right against how often two of them agree.

  Args:
    curves: name to (label, accuracy, collision) of each setting, such as a
      temperature; accuracy and collision as fractions.

  Returns:
    The figure, a line for each name.
  """
  figure, (axes,) = _figure(1)
  for i, (name, settings) in enumerate(curves.items()):
    labels, accuracies, collisions = zip(*settings, strict=True)
    axes.plot(
      collisions,
      accuracies,
      color=_color(i),
      marker=_MARKERS[i % len(_MARKERS)],
      markersize=4,
      linewidth=1,
      label=name,
    )
    for label, x, y in zip(labels, collisions, accuracies, strict=True):
      axes.annotate(
        label, (x, y), (4, 3), textcoords="offset points", fontsize="small"
      )
  axes.set(
    xlabel="collision: two samples agree", ylabel="accuracy: a sample is right"
  )
  _legend(axes, len(curves) > 1)
  return figure


@_styled
def autoencoder_health(
  rows: Sequence[Mapping[str, float]],
) -> Figure:
  """Wrong tokens, spread and dead dimensions over steps.

  Args:
    rows: of metrics.jsonl, with step and any of token_accuracy, latent_std
      and dead_dimensions.

  Returns:
    The figure, a panel for each value that is present.
  """
  series = {}
  for name in ("token_accuracy", "latent_std", "dead_dimensions"):
    found = [(row["step"], row[name]) for row in rows if name in row]
    if found:
      series[name] = np.array(found, float).T
  figure, panels = _figure(len(series))
  for axes, (name, (steps, values)) in zip(panels, series.items(), strict=True):
    label = name.replace("_", " ")
    if name == "token_accuracy":
      label, values = "wrong tokens", 1 - values
      if values.max() > 0:
        values = np.where(values > 0, values, np.nan)
        axes.set_yscale("log")
    axes.plot(steps, values, color=_COLORS[0], linewidth=1.3)
    axes.set(xlabel="step", ylabel=label)
  return figure


@_styled
def std_per_dimension(stds: Mapping[str, Sequence[float]]) -> Figure:
  """The posterior's std of each dimension, a line for each autoencoder.

  Args:
    stds: name to [Z], in any order.

  Returns:
    The figure. A dimension of std 1 holds nothing of its chunk.
  """
  figure, (axes,) = _figure(1)
  for i, (name, values) in enumerate(stds.items()):
    axes.plot(sorted(values), color=_color(i), label=name, linewidth=1.3)
  axes.set(xlabel="dimension, sorted", ylabel="posterior std", ylim=(0, None))
  _legend(axes, len(stds) > 1)
  return figure


def to_svg(figure: Figure, name: str) -> str:
  """A figure as SVG to stand inside a page; its ink is the page's own.

  Args:
    figure: from a function above.
    name: unique on the page; keeps the figures' ids apart.

  Returns:
    The <svg> element, with no fixed size.
  """
  buffer = io.StringIO()
  with _style():
    figure.savefig(buffer, format="svg", metadata={"Date": None})
  svg = buffer.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
  svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 sans-serif", svg)
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = svg.replace(_INK, "currentColor")
  size = re.compile(r' width="[^"]*" height="[^"]*"')
  return size.sub(f' role="img" aria-label="{name}"', svg, count=1)


def _style() -> contextlib.AbstractContextManager[None]:
  try:
    import matplotlib
  except ModuleNotFoundError:
    raise ValueError(
      "pictures need matplotlib; install it with pip install '.[plots]'."
    ) from None
  return matplotlib.rc_context(_STYLE)


def _figure(
  num_panels: int, *, share_y: bool = False
) -> tuple[Figure, list[Any]]:
  """A figure as wide as a phone can show, its panels in two columns."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure as MatplotlibFigure

  num_columns = min(num_panels, 2)
  num_rows = math.ceil(num_panels / 2)
  height = 3.0 if num_rows == 1 else 2.5 * num_rows
  figure = MatplotlibFigure(figsize=(4.8, height))
  FigureCanvasAgg(figure)
  grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=share_y)
  panels = grid.reshape(-1)
  for spare in panels[num_panels:]:
    spare.set_axis_off()
  return figure, list(panels[:num_panels])


def count(value: float) -> str:
  """A large number in words: 176 k, 1.04 M."""
  for unit, name in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
    if value >= 0.9995 * unit:
      return f"{value / unit:.3g}{name}"
  return f"{value:.3g}"


def _count_axis(axes: Any, values: np.ndarray) -> None:
  """A logarithmic x-axis with few ticks, written out."""
  from matplotlib import ticker

  is_short = max(values) < 30 * min(values)
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(
    ticker.LogLocator(subs=(1, 2, 5) if is_short else (1,))
  )
  axes.xaxis.set_major_formatter(lambda value, place: count(value))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _color(i: int) -> str:
  return _COLORS[i % len(_COLORS)]


def _legend(axes: Any, is_wanted: bool) -> None:
  if is_wanted and len(axes.get_legend_handles_labels()[1]) <= _MAX_LEGEND:
    axes.legend(fontsize="small")
