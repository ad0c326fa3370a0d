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
PERMUTED = "_permuted"  # control: the context of another window
LAST_CHUNK = "_last_chunk"  # control: the context cut to its last chunk
CONTROLS = (PERMUTED, LAST_CHUNK)

Columns = Mapping[str, np.ndarray]  # [W] sums by name


def summarise(columns: Columns) -> tuple[dict[str, Any], list[str]]:
  """Turns sums over windows into scores with errors.

  Args:
    columns: `count`, and sums over the counted positions. Those named
      `accuracy_n` and `collision_n`, n = 1 … 4, make up the Brier scores; those
      that end in `_permuted` or `_last_chunk` are controls of those that do
      not.

  Returns:
    For each score s: `s`, `s_stderr`, and with a control c `s_c`, `s_c_stderr`,
    `s_minus_c` and `s_minus_c_stderr` (paired: both see the same windows).
    `brier_lm` is "not resolved", and its error None, where some Brier-n is not
    positive; a difference of which one side is not resolved is None. And what
    the reader should be warned of.

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
  result |= interval.named(order)
  for suffix in ("", *CONTROLS):
    _mark_unresolved(result, suffix)
  warning = cluster_warning(len(table))
  return result, [warning] if warning else []


def _scores(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Means, Brier scores and differences from the controls, scores first."""
  means = {
    name: total / sums[COUNT] for name, total in sums.items() if name != COUNT
  }
  scores = {}
  for suffix in ("", *CONTROLS):
    if f"accuracy_1{suffix}" not in means:
      continue
    brier = []
    for n in range(1, NUM_ORDERS + 1):
      # Permuting contexts moves predictions from window to window; how much
      # they agree with each other stays what it was.
      own = "" if suffix == PERMUTED else suffix
      collision = means[f"collision_{n}{own}"]
      brier.append(2 * means[f"accuracy_{n}{suffix}"] - collision)
      scores[f"brier_{n}{suffix}"] = brier[-1]
    scores[f"brier_lm{suffix}"] = brier_lm(np.stack(brier, axis=-1))
  scores |= means
  for control in CONTROLS:
    for name in [name for name in scores if name + control in scores]:
      scores[f"{name}_minus{control}"] = scores[name] - scores[name + control]
  return scores


def _mark_unresolved(result: dict[str, Any], suffix: str) -> None:
  scores = [
    result.get(f"brier_{n}{suffix}", 1.0) for n in range(1, NUM_ORDERS + 1)
  ]
  if min(scores) <= 0:
    result[f"brier_lm{suffix}"] = "not resolved"
    result[f"brier_lm{suffix}_stderr"] = None
    for control in (suffix,) if suffix else CONTROLS:
      if f"brier_lm{control}" in result:
        result[f"brier_lm_minus{control}"] = None
        result[f"brier_lm_minus{control}_stderr"] = None
