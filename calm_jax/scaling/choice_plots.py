"""Pictures of answers to multiple choice."""

from collections.abc import Mapping, Sequence

from calm_jax.scaling.drawing import (
  INK,
  Figure,
  legend,
  new_figure,
  series,
  styled,
)


@styled
def accuracy_over_samples(
  curves: Mapping[str, Sequence[tuple[int, float, float]]], chance: float
) -> Figure:
  """Accuracy in multiple choice against the number of samples.

  Args:
    curves: name to (samples, accuracy, standard error) of each number.
    chance: accuracy of guesses, a dotted line.

  Returns:
    The figure, a line for each name.
  """
  figure, (axes,) = new_figure(1)
  for i, (name, points) in enumerate(curves.items()):
    counts, accuracies, errors = zip(*points, strict=True)
    axes.errorbar(
      counts,
      accuracies,
      errors,
      capsize=2,
      **series(i, name),
    )
  axes.axhline(chance, color=INK, linestyle=":")
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")
  axes.set(xlabel="samples of each chunk", ylabel="accuracy")
  legend(axes, True)
  return figure


@styled
def reliability(
  curves: Mapping[str, Sequence[tuple[float, float]]],
) -> Figure:
  """Accuracy over confidence; who is calibrated is on the dotted line.

  Args:
    curves: name to (confidence, accuracy) of each bin, as fractions.

  Returns:
    The figure, a line for each name.
  """
  figure, (axes,) = new_figure(1)
  for i, (name, bins) in enumerate(curves.items()):
    confidences, accuracies = zip(*bins, strict=True)
    axes.plot(
      confidences,
      accuracies,
      **series(i, name),
    )
  axes.axline((0, 0), slope=1, color=INK, linestyle=":")
  axes.set(
    xlabel="confidence",
    ylabel="accuracy",
    xlim=(0, 1.03),
    ylim=(0, 1.03),
  )
  legend(axes, True)
  return figure
