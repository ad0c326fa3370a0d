"""Pictures of runs: each a pure function of data to a matplotlib figure."""

from collections.abc import Mapping, Sequence

import numpy as np

from calm_jax.scaling.drawing import (
  Figure,
  color,
  legend,
  line_style,
  new_figure,
  series,
  styled,
)


@styled
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
  figure, (axes,) = new_figure(1)
  for i, (name, (steps, values)) in enumerate(curves.items()):
    style = line_style(i)
    axes.plot(steps, values, style, color=color(i), label=name, linewidth=1.3)
  if use_log_scale:
    axes.set_yscale("log")
  axes.set(xlabel="step", ylabel=label)
  legend(axes, len(curves) > 1)
  return figure


@styled
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
  figure, (axes,) = new_figure(1)
  for i, (name, settings) in enumerate(curves.items()):
    labels, accuracies, collisions = zip(*settings, strict=True)
    axes.plot(
      collisions,
      accuracies,
      **series(i, name),
    )
    for label, x, y in zip(labels, collisions, accuracies, strict=True):
      axes.annotate(
        label, (x, y), (4, 3), textcoords="offset points", fontsize="small"
      )
  axes.set(
    xlabel="collision: two samples agree", ylabel="accuracy: a sample is right"
  )
  legend(axes, len(curves) > 1)
  return figure


@styled
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
  figure, panels = new_figure(len(series))
  for axes, (name, (steps, values)) in zip(panels, series.items(), strict=True):
    label = name.replace("_", " ")
    if name == "token_accuracy":
      label, values = "wrong tokens", 1 - values
      if values.max() > 0:
        values = np.where(values > 0, values, np.nan)
        axes.set_yscale("log")
    axes.plot(steps, values, color=color(0), linewidth=1.3)
    axes.set(xlabel="step", ylabel=label)
  return figure


@styled
def std_per_dimension(stds: Mapping[str, Sequence[float]]) -> Figure:
  """The posterior's std of each dimension, a line for each autoencoder.

  Args:
    stds: name to [Z], in any order.

  Returns:
    The figure. A dimension of std 1 holds nothing of its chunk.
  """
  figure, (axes,) = new_figure(1)
  for i, (name, values) in enumerate(stds.items()):
    axes.plot(sorted(values), color=color(i), label=name, linewidth=1.3)
  axes.set(xlabel="dimension, sorted", ylabel="posterior std", ylim=(0, None))
  legend(axes, len(stds) > 1)
  return figure
