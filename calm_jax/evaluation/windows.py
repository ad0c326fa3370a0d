"""What evaluation keeps of every window, and what becomes of it.

A window is a row of the data. Each leaves one line of sums, named columns, so
that a score, its error and its difference from a control are all functions of
the same lines.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from calm_jax.evaluation.bootstrap import bootstrap, cluster_warning
from calm_jax.evaluation.brier import brier_lm
from calm_jax.evaluation.positions import NUM_ORDERS

COUNT = "count"  # column of how many positions or chunks a window counts
PERMUTED = "_permuted"

Columns = Mapping[str, np.ndarray]  # [W] sums by name


def summarise(columns: Columns) -> tuple[dict[str, Any], list[str]]:
  """Turns sums over windows into scores with errors.

  Args:
    columns: `count`, and sums over the counted positions. Those named
      `accuracy_n` and `collision_n`, n = 1 … 4, make up the Brier scores; those
      that end in `_permuted` are the control of those that do not.

  Returns:
    For each score s: `s`, `s_stderr`, and with a control `s_permuted`,
    `s_permuted_stderr`, `s_minus_permuted` and `s_minus_permuted_stderr`
    (paired: both see the same windows). `brier_lm` is "not resolved", and its
    error None, where some Brier-n is not positive. And what the reader should
    be warned of.

  Raises:
    ValueError: if nothing is counted.
  """
  names = list(columns)
  table = np.stack([np.asarray(columns[name]) for name in names], axis=-1)
  table = table[table[:, names.index(COUNT)] > 0]
  if not len(table):
    raise ValueError(
      "no position of these rows can be scored: none has enough real text"
      " after it; evaluate more or longer rows."
    )
  scores = _scores(dict(zip(names, table.sum(axis=0), strict=True)))
  order = list(scores)

  def statistic(sums: np.ndarray) -> np.ndarray:
    sums = np.moveaxis(sums, -1, 0)
    found = _scores(dict(zip(names, sums, strict=True)))
    return np.stack([found[name] for name in order], axis=-1)

  interval = bootstrap(statistic, table.astype(np.float64))
  result: dict[str, Any] = {
    "num_windows": len(table),
    "num_positions": int(table[:, names.index(COUNT)].sum()),
  }
  for name, value, stderr in zip(
    order, interval.value, interval.stderr, strict=True
  ):
    result[name] = float(value)
    result[f"{name}_stderr"] = None if np.isnan(stderr) else float(stderr)
  for suffix in ("", PERMUTED):
    _mark_unresolved(result, suffix)
  warning = cluster_warning(len(table))
  return result, [warning] if warning else []


def _scores(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Means, Brier scores and differences from the control, scores first."""
  means = {
    name: total / sums[COUNT] for name, total in sums.items() if name != COUNT
  }
  scores = {}
  for suffix in ("", PERMUTED):
    if f"accuracy_1{suffix}" not in means:
      continue
    brier = []
    for n in range(1, NUM_ORDERS + 1):
      # Permuting contexts moves predictions from window to window; how much
      # they agree with each other stays what it was.
      collision = means[f"collision_{n}"]
      brier.append(2 * means[f"accuracy_{n}{suffix}"] - collision)
      scores[f"brier_{n}{suffix}"] = brier[-1]
    scores[f"brier_lm{suffix}"] = brier_lm(np.stack(brier, axis=-1))
  scores |= means
  for name in [name for name in scores if name + PERMUTED in scores]:
    scores[f"{name}_minus_permuted"] = scores[name] - scores[name + PERMUTED]
  return scores


def _mark_unresolved(result: dict[str, Any], suffix: str) -> None:
  scores = [
    result.get(f"brier_{n}{suffix}", 1.0) for n in range(1, NUM_ORDERS + 1)
  ]
  if min(scores) <= 0:
    result[f"brier_lm{suffix}"] = "not resolved"
    result[f"brier_lm{suffix}_stderr"] = None
    if not suffix and f"brier_lm{PERMUTED}" in result:
      result["brier_lm_minus_permuted"] = None
      result["brier_lm_minus_permuted_stderr"] = None
