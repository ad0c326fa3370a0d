"""Scores as a table for people."""

from typing import Any

_SUFFIXES = ("", "_permuted", "_minus_permuted")


def format_table(result: dict[str, Any]) -> str:
  """One line a score, with its error, its control and the difference.

  Args:
    result: what `evaluate_run` returns.

  Returns:
    Lines of text.
  """
  names = [
    name
    for name in result
    if f"{name}_stderr" in result and not name.endswith(_SUFFIXES[1:])
  ]
  has_control = any(f"{name}_permuted" in result for name in names)
  title = f"{result['num_positions']} positions of {result['num_windows']} rows"
  head = f"{title:<28}{'score':>22}"
  if has_control:
    head += f"{'permuted':>22}{'difference':>22}"
  lines = [head]
  for name in names:
    cells = [
      _cell(result, name + suffix)
      for suffix in (_SUFFIXES if has_control else ("",))
    ]
    lines.append(f"{name:<28}" + "".join(f"{cell:>22}" for cell in cells))
  return "\n".join(line.rstrip() for line in lines)


def _cell(result: dict[str, Any], name: str) -> str:
  value, stderr = result.get(name), result.get(f"{name}_stderr")
  if value is None or isinstance(value, str):
    return value or ""
  if stderr is None:
    return f"{value:.4f}"
  return f"{value:.4f} ± {stderr:.4f}"
