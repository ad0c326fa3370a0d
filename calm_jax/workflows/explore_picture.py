"""The curves of `explore` as a picture."""

import importlib.util
from typing import Any

from etils import epath

from calm_jax import paths

_NUM_PANELS = 4
_COLORS = ("#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b")


def draw_curves(result: dict[str, Any], path: epath.PathLike) -> None:
  """Draws accuracy over collision for every n, a line for each curve.

  Args:
    result: what `explore` returns.
    path: of the picture; the suffix chooses its format.

  Raises:
    ValueError: if matplotlib is not installed or the format is unknown.
  """
  check_matplotlib()
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  points = result["points"]
  orders = [n for n in range(1, _NUM_PANELS + 1) if _has(points, n)]
  figure = Figure(figsize=(4 * len(orders), 3.6), layout="constrained")
  FigureCanvasAgg(figure)
  for axes, n in zip(
    figure.subplots(1, len(orders), squeeze=False)[0], orders, strict=True
  ):
    for name, style, members in _curves(points):
      members = [point for point in members if f"accuracy_{n}" in point]
      axes.errorbar(
        [100 * point[f"collision_{n}"] for point in members],
        [100 * point[f"accuracy_{n}"] for point in members],
        [100 * (point[f"accuracy_{n}_stderr"] or 0) for point in members],
        label=name,
        linewidth=1.2,
        markersize=4,
        capsize=2,
        **style,
      )
    axes.set(
      title=f"next {n} tokens" if n > 1 else "next token",
      xlabel="collision (%)",
      ylabel="accuracy (%)",
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
  axes.legend(frameon=False, fontsize="small")
  with paths.written_whole(path) as beside, beside.open("wb") as file:
    figure.savefig(file, format=epath.Path(path).suffix[1:], dpi=150)


def check_matplotlib() -> None:
  """Raises ValueError if matplotlib is not installed."""
  if importlib.util.find_spec("matplotlib") is None:
    raise ValueError(
      "pictures need matplotlib; install it with pip install '.[plots]'."
    )


def _has(points: list[dict[str, Any]], n: int) -> bool:
  return any(f"accuracy_{n}" in point for point in points)


def _curves(points: list[dict[str, Any]]):
  """(name, style, points) of each line, in the order of the points."""
  counts = sorted(
    {point["num_candidates"] for point in points if point["method"] == "batch"}
  )
  for i, count in enumerate(counts):
    members = [p for p in points if p.get("num_candidates") == count]
    style = {"color": _COLORS[i % len(_COLORS)], "marker": "o"}
    yield f"CALM, temperature, {count} candidates", style, members
  others = {
    "noise_scale": ("CALM, noise scaled", {"color": "#e07b1a", "marker": "s"}),
    "token_model": (
      "token model, temperature",
      {"color": "#444", "marker": "^"},
    ),
  }
  for method, (name, style) in others.items():
    members = [point for point in points if point["method"] == method]
    if members:
      yield name, style, members
