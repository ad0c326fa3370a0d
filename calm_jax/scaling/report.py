"""One page about a run, a sweep or the quickstart, from its directory."""

import dataclasses
import os
import pathlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from calm_jax import paths
from calm_jax.scaling import plots
from calm_jax.scaling.answer import Answer, find_answer
from calm_jax.scaling.answer_words import markdown as markdown_of
from calm_jax.scaling.choice_sections import add_choices
from calm_jax.scaling.drawing import to_svg
from calm_jax.scaling.markdown_block import replace_block, split_block
from calm_jax.scaling.page import Page, identifier, with_error
from calm_jax.scaling.study import Run, Study, read_study
from calm_jax.scaling.sweep_sections import add_points

_PROVENANCE = ("config", "hashes", "settings", "versions")  # no results
_UNPLOTTED = ("step", "seconds", "goodput", "head_loss")
_LOSSES = {
  "autoencoder": "Loss: K times the cross-entropy of a token, and the KL.",
  "next vector": "The head's loss alone; it compares only at one head, K and"
  " autoencoder.",
  "token": "Cross-entropy of the training text, nats a token.",
}
_MAX_RUNS = 10  # more learning curves than that, and only the loss is drawn


def write_report(
  directory: str | os.PathLike,
  output: str | os.PathLike,
  beside: str | os.PathLike | None = None,
  markdown: str | os.PathLike | None = None,
) -> list[pathlib.Path]:
  """Writes the page, and every figure of it as an SVG beside it.

  Args:
    directory: of a run, a sweep or the quickstart.
    output: the page; figures go to the folder of its name + "_figures".
    beside: of a second quickstart, whose scores and samples stand beside those
      of the first; None: no other.
    markdown: a page of documentation that gets a sweep's tables and sentences
      between its marks, see `replace_block`; None: none.

  Returns:
    The files written, the page first.

  Raises:
    OSError: if there is nothing to report, or the files cannot be written.
    ValueError: if a file is damaged, or matplotlib is not installed.
  """
  study = read_study(directory)
  if beside is not None:
    study = with_beside(study, read_study(beside))
  answer = find_answer(study.points) if study.points else None
  if markdown is not None:
    if answer is None:
      raise ValueError(
        f"{study.directory} has no table of a sweep to tell of in {markdown};"
        " run launch.sweep --collect, or leave --markdown out."
      )
    split_block(markdown)  # better known before the page is written
  page = build_page(study, answer)
  output = pathlib.Path(output).expanduser()
  folder = output.with_name(f"{output.stem}_figures")
  folder.mkdir(exist_ok=True)
  contents = {output: page.html()} | {
    folder / f"{name}.svg": svg for name, svg in page.figures.items()
  }
  for path, content in contents.items():
    paths.write_whole(path, content)
  if markdown is not None and answer is not None:
    replace_block(markdown, markdown_of(answer))
  return list(contents)


def with_beside(study: Study, other: Study) -> Study:
  """A quickstart's study, with the scores and samples of another quickstart.

  Raises:
    ValueError: if one of them is none, or if they were scored on other text.
  """
  for it in (study, other):
    if "continuations" not in it.results:
      raise ValueError(
        f"{it.directory} holds no finished quickstart; two of them can stand"
        " side by side."
      )
  mine, theirs = (it.results["calm"].get("hashes") for it in (study, other))
  if mine and theirs and mine.get("data") != theirs.get("data"):
    raise ValueError(
      f"{study.directory} and {other.directory} were scored on different text,"
      " as quickstarts of different Python versions are; their scores do not"
      " compare."
    )
  name = other.directory.resolve().name
  if name == study.directory.resolve().name:
    name = f"{name} (beside)"
  results = dict(study.results)
  for stage in ("autoencoder", "calm"):
    results[f"{stage}, {name}"] = other.results[stage]
  results["samples"] = [
    *results.get("samples", []),
    *(
      {"name": f"calm, {name}", "prompt": it["prompt"], "text": it["model"]}
      for it in other.results.get("continuations", [])
    ),
  ]
  return dataclasses.replace(study, results=results)


def build_page(study: Study, answer: Answer | None = None) -> Page:
  """All sections for which the study has something.

  Args:
    study: what was found.
    answer: of its points; None: asked for here.
  """
  page = Page(f"calm_jax: {study.directory.resolve().name}")
  if study.points:
    add_points(page, answer or find_answer(study.points))
  _add_results(page, study.results)
  add_choices(page, study.choices)
  _add_samples(page, study.results)
  _add_trade_off(page, study.results)
  _add_runs(page, study.runs)
  _add_autoencoders(page, study)
  _add_provenance(page, study)
  return page


def _add_results(page: Page, results: Mapping[str, Any]) -> None:
  """Scores with errors; stages that have the same scores share a table."""
  tables = defaultdict(dict)
  for stage, values in results.items():
    if isinstance(values, dict) and stage not in _PROVENANCE:
      tables[_score_names(values)][stage] = values
  for names, stages in tables.items():
    columns = {}
    for stage, values in stages.items():
      columns[stage] = [
        with_error(values[name], values.get(f"{name}_stderr")) for name in names
      ]
      permuted = [
        with_error(
          values.get(f"{name}_permuted"), values.get(f"{name}_permuted_stderr")
        )
        for name in names
      ]
      if any(permuted):
        columns[f"{stage}, contexts permuted"] = permuted
    if names:
      page.section(f"Results: {', '.join(stages)}")
      page.table(
        ("± standard error", *columns),
        [*zip(names, *columns.values(), strict=True)],
      )


def _score_names(values: Mapping[str, Any]) -> tuple[str, ...]:
  return tuple(
    name
    for name, value in values.items()
    if not isinstance(value, dict | list)
    and not name.endswith(("_stderr", "_permuted"))
    and "_minus_" not in name
  )


def _add_samples(page: Page, results: Mapping[str, Any]) -> None:
  """Continuations of each prompt, the models side by side."""
  by_prompt: dict[str, dict[str, str]] = defaultdict(dict)
  for sample in results.get("samples", []):
    name = str(sample.get("name", "continuation"))
    by_prompt[sample["prompt"]][name] = sample["text"]
  for sample in results.get("continuations", []):  # of the quickstart
    texts = {"calm": sample["model"], "real text": sample["real"]}
    by_prompt[sample["prompt"]] |= texts
  if not by_prompt:
    return
  names = sorted({name for texts in by_prompt.values() for name in texts})
  page.section("Samples")
  page.table(
    ("prompt", *names),
    [
      (prompt, *(texts.get(name, "") for name in names))
      for prompt, texts in by_prompt.items()
    ],
    is_text=True,
  )


def _add_trade_off(page: Page, results: Mapping[str, Any]) -> None:
  curves = results.get("trade_off")
  if not isinstance(curves, dict) or not curves:
    return
  figure = plots.accuracy_over_collision(
    {
      name: [
        (str(one["label"]), one["accuracy"], one["collision"])
        for one in settings
      ]
      for name, settings in curves.items()
    }
  )
  page.section("Accuracy and collision")
  page.figure(
    "trade-off",
    to_svg(figure, "trade-off"),
    "Sharper sampling is right more often and repeats itself more often.",
  )


def _add_runs(page: Page, runs: list[Run]) -> None:
  """A figure for each logged number, the runs of one kind together."""
  by_kind = defaultdict(list)
  for run in runs:
    by_kind[run.kind].append(run)
  for kind, mine in sorted(by_kind.items()):
    page.section(f"Learning curves: {kind}")
    names = {name for run in mine for row in run.rows for name in row}
    names = sorted(
      names - {*_UNPLOTTED}, key=lambda name: (name != "loss", name)
    )
    if len(runs) > _MAX_RUNS:
      names = [name for name in names if name == "loss"]
    for metric in names:
      curves = {run.name: run.series(metric) for run in mine}
      if metric == "loss":  # without what is trained beside it
        heads = {run.name: run.series("head_loss") for run in mine}
        curves |= {name: it for name, it in heads.items() if it[0]}
      curves = {name: curve for name, curve in curves.items() if curve[0]}
      values = [value for _, ys in curves.values() for value in ys]
      figure = plots.learning_curves(
        curves,
        label=metric.replace("_", " "),
        use_log_scale=min(values) > 0 and max(values) > 10 * min(values),
      )
      name = identifier(f"{kind}-{metric}")
      caption = metric
      if metric == "loss":
        caption = _LOSSES.get(kind.partition(",")[0], metric)
      page.figure(name, to_svg(figure, name), caption)


def _add_autoencoders(page: Page, study: Study) -> None:
  stds = {
    stage: values["std_per_dimension"]
    for stage, values in study.results.items()
    if isinstance(values, dict) and "std_per_dimension" in values
  }
  mine = [
    run
    for run in study.runs
    if any("token_accuracy" in row and "latent_std" in row for row in run.rows)
  ][:_MAX_RUNS]
  if mine or stds:
    page.section("Health of the autoencoder")
  for run in mine:
    name = identifier(f"health-{run.name}")
    figure = plots.autoencoder_health(run.rows)
    page.figure(name, to_svg(figure, name), run.name)
  if stds:
    page.figure(
      "health-stds",
      to_svg(plots.std_per_dimension(stds), "health-stds"),
      "The posterior's standard deviation of each dimension, over held-out"
      " text. Near 1 a dimension tells nothing of its chunk.",
    )


def _add_provenance(page: Page, study: Study) -> None:
  page.section("Where it comes from")
  plain = [
    (name, value)
    for name, value in study.results.items()
    if not isinstance(value, dict | list)
  ]
  page.table(("directory", str(study.directory)), plain)
  for name in _PROVENANCE:
    if isinstance(study.results.get(name), dict):
      page.details(name, study.results[name])
  for run in study.runs:
    if run.config:
      page.details(f"config of {run.name}", run.config)
