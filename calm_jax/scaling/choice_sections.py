"""The part of a report that is about multiple choice."""

from collections.abc import Mapping
from typing import Any

from calm_jax.scaling import choice_plots
from calm_jax.scaling.drawing import to_svg
from calm_jax.scaling.page import Page, identifier, with_error

_COLUMNS = {
  "accuracy": "accuracy",
  "accuracy_normalised": "by length",
  "accuracy_mutual": "mutual",
  "confidence": "confidence",
  "overconfidence": "overconfidence",
  "choice_brier": "Brier score of choices",
}


def add_choices(page: Page, choices: Mapping[str, Mapping[str, Any]]) -> None:
  """A section for each result of launch.choose, by its file's name."""
  for name, result in choices.items():
    page.section(
      f"Multiple choice: {name} ({result['form']}, {result['num_items']}"
      " questions)"
    )
    _add_table(page, result)
    _add_samples(page, result, identifier(name))
    _add_calibration(page, result, identifier(name))


def _add_table(page: Page, result: Mapping[str, Any]) -> None:
  estimates = result["estimates"]
  names = [
    name
    for name in _COLUMNS
    if any(name in values for values in estimates.values())
  ]
  page.text(
    f"By the estimate {result['estimate']!r}; the others beside it. Chance is"
    f" {result['chance']:.3g}. No estimate of a model without likelihoods gives"
    " a perplexity."
  )
  page.table(
    ("± standard error", *(_COLUMNS[name] for name in names)),
    [
      (
        estimate,
        *(
          with_error(values.get(name), values.get(f"{name}_stderr"))
          for name in names
        ),
      )
      for estimate, values in estimates.items()
    ],
  )


def _add_samples(page: Page, result: Mapping[str, Any], place: str) -> None:
  curves = {
    estimate: [
      (row["num_samples"], row["accuracy"], row.get("accuracy_stderr") or 0.0)
      for row in values["by_num_samples"]
    ]
    for estimate, values in result["estimates"].items()
    if values.get("by_num_samples")
  }
  if curves:
    name = f"choices-samples-{place}"
    figure = choice_plots.accuracy_over_samples(curves, result["chance"])
    page.figure(
      name,
      to_svg(figure, name),
      "Accuracy with the first so many samples of each chunk. Dotted: chance."
      " The samples are the same, so points of a line err together.",
    )


def _add_calibration(page: Page, result: Mapping[str, Any], place: str) -> None:
  curves = {
    estimate: [
      (it["confidence"], it["accuracy"]) for it in values["reliability"]
    ]
    for estimate, values in result["estimates"].items()
    if values.get("reliability")
  }
  if curves:
    name = f"choices-calibration-{place}"
    page.figure(
      name,
      to_svg(choice_plots.reliability(curves), name),
      "Calibration: the accuracy of answers by their confidence, the largest"
      " share of a softmax over the candidates. Below the dotted line an"
      " estimate is too sure.",
    )
