"""How figures are drawn: style, panels, axes, and SVG for a page.

matplotlib is imported when the first picture is drawn, without pyplot: no
window, no global state. Figures have no background, and their text and axes
are of one colour that `to_svg` turns into that of the page around it.
"""

import contextlib
import functools
import io
import math
import re
from collections.abc import Callable
from typing import Any, ParamSpec

import numpy as np

INK = "#767676"  # legible on white and on black; see `to_svg`
_COLORS = ("#3b82d6", "#e07b1a", "#2a9d63", "#c2459a", "#8a6fd1", "#b59a12")
_MARKERS = "osD^vP"
_LINES = ("-", "--", ":")  # when the colours are used up
_MAX_LEGEND = 10  # entries; more are no help
_STYLE = {
  "axes.edgecolor": INK,
  "axes.labelcolor": INK,
  "axes.titlecolor": INK,
  "axes.titlesize": "medium",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.facecolor": "none",
  "figure.facecolor": "none",
  "figure.constrained_layout.use": True,
  "grid.alpha": 0.25,
  "grid.color": INK,
  "legend.frameon": False,
  "legend.labelcolor": INK,
  "savefig.facecolor": "none",
  "svg.fonttype": "none",
  "svg.hashsalt": "calm_jax",
  "text.color": INK,
  "xtick.color": INK,
  "ytick.color": INK,
}

_HOVER = "hover:"  # begins the id of what has a tooltip
Figure = Any  # matplotlib.figure.Figure
_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
  """Draws inside the style above."""

  @functools.wraps(draw)
  def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
    with _style():
      return draw(*args, **kwargs)

  return call


def to_svg(figure: Figure, name: str) -> str:
  """A figure as SVG to stand inside a page; its ink is the page's own.

  Args:
    figure: of `plots` or `sweep_plots`.
    name: unique on the page; keeps the figures' ids apart.

  Returns:
    The <svg> element, with no fixed size.
  """
  buffer = io.StringIO()
  with _style():
    figure.savefig(buffer, format="svg", metadata={"Date": None})
  svg = buffer.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(f'<g id="{_HOVER}([^"]*)">', r"<g><title>\1</title>", svg)
  svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
  svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 sans-serif", svg)
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = svg.replace(INK, "currentColor")
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


def new_figure(
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


def count_axis(axes: Any, values: np.ndarray) -> None:
  """A logarithmic x-axis with few ticks, written out."""
  from matplotlib import ticker

  is_short = max(values) < 30 * min(values)
  axes.set_xscale("log")
  axes.xaxis.set_major_locator(
    ticker.LogLocator(subs=(1, 2, 5) if is_short else (1,))
  )
  axes.xaxis.set_major_formatter(lambda value, place: count(value))
  axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def color(i: int) -> str:
  """The i-th series' own colour."""
  return _COLORS[i % len(_COLORS)]


def line_style(i: int) -> str:
  """Of the i-th series: another one when the colours are used up."""
  return _LINES[i // len(_COLORS) % len(_LINES)]


def marker(i: int) -> str:
  """The i-th series' own mark."""
  return _MARKERS[i % len(_MARKERS)]


def series(i: int, name: str) -> dict[str, Any]:
  """How the i-th line with marks is drawn, and its name."""
  return {
    "color": color(i),
    "marker": marker(i),
    "markersize": 4,
    "linewidth": 1,
    "label": name,
  }


def hover(artist: Any, words: str) -> None:
  """Shows words where the mouse rests on a mark; SVG does so by itself."""
  artist.set_gid(_HOVER + words)


def legend(axes: Any, is_wanted: bool) -> None:
  """A legend, unless it is so long that it is no help."""
  if is_wanted and len(axes.get_legend_handles_labels()[1]) <= _MAX_LEGEND:
    axes.legend(fontsize="small")
