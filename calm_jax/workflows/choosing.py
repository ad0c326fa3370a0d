"""Questions on the terminal and in a file."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import tqdm

from calm_jax import paths
from calm_jax.checkpoint.run_directory import LoadedRun, RunDirectory
from calm_jax.data.choice_items import Task, read_task, with_examples
from calm_jax.data.cloze import cloze_items
from calm_jax.data.tokenizer import load_tokenizer
from calm_jax.evaluation.held_out_text import open_text
from calm_jax.json_files import line
from calm_jax.runs.choosing import choose_run
from calm_jax.runs.text_scorer import ChoiceSettings
from calm_jax.workflows.terminal import say


def choose(
  run: LoadedRun,
  task: Task,
  settings: ChoiceSettings,
  *,
  save_fn: Callable[[dict[str, Any]], None] | None = None,
  **others: Any,
) -> dict[str, Any]:
  """Answers questions with a bar and prints a table; see `choose_run`.

  Of several processes the first one saves and prints.

  Args:
    run: as loaded.
    task: the questions.
    settings: how they are scored.
    save_fn: takes the result before anything is printed.
    **others: arguments of `choose_run`.

  Returns:
    What a result file holds.
  """
  is_silent = jax.process_index() > 0
  with tqdm.tqdm(
    desc="choosing", unit="text", delay=1, disable=is_silent
  ) as bar:
    result = choose_run(
      run,
      task,
      settings,
      progress_fn=lambda done, num_texts: _show(bar, done, num_texts),
      **others,
    )
  if not is_silent:
    if save_fn is not None:
      save_fn(result)
    print(format_choices(result), flush=True)
    for warning in result["warnings"]:
      say(f"warning: {warning}")
  return result


def _show(bar: tqdm.tqdm, num_done: int, num_texts: int) -> None:
  bar.total = num_texts
  bar.update(num_done - bar.n)


def open_task(
  path: str, *, num_examples: int, num_items: int | None, seed: int
) -> Task:
  """Reads questions, puts examples before them and takes some of them.

  Args:
    path: see `read_task`.
    num_examples: k, of the same file, before each question.
    num_items: so many, spread evenly over the file; None: all.
    seed: of the examples.

  Returns:
    The questions.

  Raises:
    OSError, ValueError: if the file cannot be read, or a number does not fit.
  """
  task = read_task(path)
  items = with_examples(task.items, num_examples, seed)
  if num_items is not None:
    if not 1 <= num_items <= len(items):
      raise ValueError(
        f"--num_items={num_items}, and {path} has {len(items)} questions; give"
        f" 1 to {len(items)}."
      )
    items = [items[i * len(items) // num_items] for i in range(num_items)]
  return Task(task.form, items)


def make_task(
  path: str,
  data: str,
  run: RunDirectory,
  *,
  num_chunks: int,
  num_context_chunks: int,
  split: str = "valid",
  **others: Any,
) -> None:
  """Writes a file of cloze questions that `read_task` reads.

  Args:
    path: of the file.
    data: a prepared directory or text files, see `open_text`.
    run: whose tokenizer and chunks the questions are cut by.
    num_chunks: of each continuation.
    num_context_chunks: of each context.
    split: of a prepared directory.
    **others: arguments of `cloze_items`.

  Raises:
    OSError, ValueError: if the data cannot be read, has too little text, or the
      file cannot be written.
  """
  tokenizer = load_tokenizer(run.path)
  size = run.read_config().model.chunk_size
  text = open_text(data, tokenizer)
  items = cloze_items(
    text.read(split, 0, text.num_tokens(split)),
    tokenizer,
    context_size=num_context_chunks * size,
    continuation_size=num_chunks * size,
    **others,
  )
  paths.write_whole(paths.expanded(path), "".join(map(line, items)))


def format_choices(result: Mapping[str, Any]) -> str:
  """A line an estimate, that which was asked for first.

  Args:
    result: of `choose_run`.

  Returns:
    Lines of text.
  """
  names = {
    "accuracy": "accuracy",
    "accuracy_normalised": "by length",
    "accuracy_mutual": "mutual",
    "confidence": "confidence",
    "choice_brier": "Brier score",
    "log_score": "score",
  }
  first = result["estimate"]
  rows = {first: result["estimates"][first]}
  for row in rows[first].get("by_num_samples", [])[:-1]:
    if row["num_samples"] in (4, 16):
      rows[f"{first}, {row['num_samples']} samples"] = row
  rows |= {k: v for k, v in result["estimates"].items() if k != first}
  names = {
    k: v for k, v in names.items() if any(k in it for it in rows.values())
  }
  title = f"{result['num_items']} questions ({result['form']})"
  lines = [_line(title, names.values())]
  for name, values in rows.items():
    lines.append(_line(name, [_cell(values, it) for it in names]))
  if result["chance"] < 1:
    lines.append(_line("chance", [f"{result['chance']:.4f}"]))
  if "accuracy_minus_against" in result:
    cell = _cell(result, "accuracy_minus_against")
    lines.append(_line("minus the other run", [cell]))
  return "\n".join(lines)


def _line(title: str, cells: Iterable[str]) -> str:
  return f"{title:<25}" + "".join(f"{cell:<18}" for cell in cells).rstrip()


def _cell(values: Mapping[str, Any], name: str) -> str:
  if name not in values:
    return ""
  value, stderr = values[name], values[f"{name}_stderr"]
  return f"{value:.4f}" + ("" if stderr is None else f" ± {stderr:.4f}")
