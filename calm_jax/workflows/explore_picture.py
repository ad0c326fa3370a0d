"""The curves of `explore` as a picture."""

import importlib.util
from typing import Any

from etils import epath

from calm_jax import paths

_NUM_PANELS = 4
_COLORS = ("#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b")


def picture_path(output: str) -> epath.Path:
  """Where the picture goes: beside the JSON file, with the suffix .png.

  Raises:
    ValueError: if that is the JSON file itself.
  """
  path = paths.expanded(output)
  picture = path.with_suffix(".png")
  if picture == path:
    raise ValueError(
      f"--output={output} is where the picture goes; give the name of the JSON"
      " file, such as explore.json."
    )
  return picture


def draw_curves(result: dict[str, Any], path: epath.PathLike) -> None:
  """Draws accuracy over collision for every n, a line for each curve.

  Where questions were answered, too, a last panel has their accuracy.

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
  panels = [
    (f"accuracy_{n}", f"collision_{n}", f"next {n} tokens")
    for n in range(1, _NUM_PANELS + 1)
  ]
  panels[0] = (*panels[0][:2], "next token")
  panels.append(("choice_accuracy", "collision_1", "multiple choice"))
  panels = [it for it in panels if any(it[0] in point for point in points)]
  figure = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
  FigureCanvasAgg(figure)
  every = figure.subplots(1, len(panels), squeeze=False)[0]
  for axes, (accuracy, collision, title) in zip(every, panels, strict=True):
    for name, style, members in _curves(points):
      members = [point for point in members if accuracy in point]
      if not members:
        continue
      axes.errorbar(
        [100 * point[collision] for point in members],
        [100 * point[accuracy] for point in members],
        [100 * (point[f"{accuracy}_stderr"] or 0) for point in members],
        label=name,
        linewidth=1.2,
        markersize=4,
        capsize=2,
        **style,
      )
    words = "collision of the next token (%)"
    axes.set(
      title=title,
      xlabel=words if title == "multiple choice" else "collision (%)",
      ylabel="accuracy (%)",
    )
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
  every[0].legend(frameon=False, fontsize="small")
  with paths.written_whole(path) as beside, beside.open("wb") as file:
    figure.savefig(file, format=epath.Path(path).suffix[1:], dpi=150)


def check_matplotlib() -> None:
  """Raises ValueError if matplotlib is not installed."""
  if importlib.util.find_spec("matplotlib") is None:
    raise ValueError(
      "pictures need matplotlib; install it with pip install '.[plots]'."
    )


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
