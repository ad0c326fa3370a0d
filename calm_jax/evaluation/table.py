"""Scores as a table for people."""

from typing import Any

from calm_jax.evaluation.windows import CONTROLS


def format_table(result: dict[str, Any]) -> str:
  """One line a score, with its error, its controls and the differences.

  Args:
    result: what `evaluate_run` returns.

  Returns:
    Lines of text.
  """
  names = [
    name
    for name in result
    if f"{name}_stderr" in result and not name.endswith(CONTROLS)
  ]
  columns = {"": "score"}
  for control in CONTROLS:
    if any(name + control in result for name in names):
      title = control.strip("_").replace("_", " ")
      columns |= {control: title, f"_minus{control}": f"− {title}"}
  title = f"{result['num_positions']} positions of {result['num_windows']} rows"
  lines = [f"{title:<28}" + "".join(f"{it:>22}" for it in columns.values())]
  for name in names:
    cells = "".join(f"{_cell(result, name + it):>22}" for it in columns)
    lines.append(f"{name:<28}{cells}")
  return "\n".join(line.rstrip() for line in lines)


def _cell(result: dict[str, Any], name: str) -> str:
  value, stderr = result.get(name), result.get(f"{name}_stderr")
  if value is None or isinstance(value, str):
    return value or ""
  if stderr is None:
    return f"{value:.4f}"
  return f"{value:.4f} ± {stderr:.4f}"
