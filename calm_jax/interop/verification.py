"""Recomputes recorded outputs of the authors' code from a converted run."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np

from calm_jax.checkpoint.run_directory import LoadedRun
from calm_jax.interop.recomputed import CHECKS
from calm_jax.interop.recorded import Recorded

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One recorded array against what was recomputed."""

  name: str
  error: float  # max|a−b| / max|b|; of integers the number that differ
  is_exact: bool  # integers are compared exactly

  @property
  def is_equal(self) -> bool:
    # A NaN is not below anything.
    return self.error == 0 if self.is_exact else self.error < TOLERANCE


@dataclasses.dataclass(frozen=True)
class Verification:
  """What was compared, and the names of what this run cannot compute."""

  comparisons: list[Comparison]
  skipped: list[str]

  def check(self) -> None:
    """Raises ValueError unless something was compared and all of it agreed."""
    if not self.comparisons:
      raise ValueError(
        "nothing was compared: the recording has no output that this kind of"
        " checkpoint can compute."
      )
    wrong = [each.name for each in self.comparisons if not each.is_equal]
    if wrong:
      raise ValueError(
        f"{len(wrong)} of {len(self.comparisons)} arrays differ from the"
        f" recording by more than {TOLERANCE}: {', '.join(wrong)}; the weights"
        " are not those that were recorded."
      )

  def table(self) -> str:
    """One line for each comparison, then the skipped names."""
    lines = []
    for comparison in self.comparisons:
      error = f"{comparison.error:.1e}"
      if comparison.is_exact:
        error = f"{comparison.error:.0f} differ"
      verdict = "ok" if comparison.is_equal else "FAILED"
      lines.append(f"{comparison.name:<36} {error:>10}  {verdict}")
    if self.skipped:
      lines.append(f"skipped: {', '.join(self.skipped)}")
    return "\n".join(lines)


def verify(run: LoadedRun, recording: Mapping[str, np.ndarray]) -> Verification:
  """Compares a run with recorded inputs and outputs.

  Args:
    run: of any kind, read back from disk.
    recording: of `read_recording`.

  Returns:
    The comparisons, in float32 at the highest precision of the device.

  Raises:
    ValueError: if an array in it has another shape than its name says.
  """
  recorded = Recorded(run, recording)
  comparisons = []
  with jax.default_matmul_precision("highest"):
    for check in CHECKS:
      if check.applies(recorded):
        found = check.compute(recorded)
        comparisons += [
          _compare(name, found[name], recorded[name])
          for name in check.outputs
          if name in found and name in recorded
        ]
  compared = {comparison.name for comparison in comparisons}
  outputs = {name for check in CHECKS for name in check.outputs}
  inputs = {name for check in CHECKS for name in check.inputs}
  known = compared | (inputs - outputs) | {"input_ids"}
  skipped = [name for name in recording if name not in known]
  return Verification(comparisons, skipped)


def _compare(name: str, found: jax.Array, recorded: np.ndarray) -> Comparison:
  found = np.asarray(found)
  assert found.shape == recorded.shape, (name, found.shape, recorded.shape)
  if np.issubdtype(recorded.dtype, np.integer):
    return Comparison(name, float((found != recorded).sum()), is_exact=True)
  found, recorded = found.astype(np.float64), recorded.astype(np.float64)
  error = np.max(np.abs(found - recorded))
  scale = np.max(np.abs(recorded))
  return Comparison(name, float(error / scale if scale else error), False)
