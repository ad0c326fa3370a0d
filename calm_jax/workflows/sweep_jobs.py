"""A sweep as jobs of a cluster: shell commands, printed and not run.

Each prints the autoencoders first, because other points wait for them, and
leaves out what is finished: printed again after a failure, it is the rest.
"""

import re
import shlex
from collections.abc import Sequence

from calm_jax.workflows.sweep import Sweep


def slurm_commands(
  sweep: Sweep, command: Sequence[str], options: str = ""
) -> str:
  """Two array jobs, one after the other, and the table after both.

  Args:
    sweep: the points.
    command: `python -m launch.sweep` with the flags that all jobs share.
    options: further ones of sbatch, such as "--gpus=1 --time=2:00:00".

  Returns:
    Lines for a shell on the login node, in the checkout.
  """
  shared, lines, after = shlex.join(command), [], ""
  for name, indices in zip(("first", "rest"), _stages(sweep), strict=True):
    if not indices:
      continue
    job = shlex.quote(f"{shared} --index=$SLURM_ARRAY_TASK_ID")
    array = ",".join(map(str, indices))
    parts = ["sbatch --parsable --requeue", options, after]
    parts += [f"--array={array}", f"--wrap={job}"]
    lines.append(f"{name}=$({' '.join(filter(None, parts))})")
    # afterany: the points of one autoencoder that failed say so, others run.
    after = f"--dependency=afterany:${name}"
  job = shlex.quote(f"{shared} --collect")
  parts = ["sbatch", options, after, f"--wrap={job}"]
  lines.append(" ".join(filter(None, parts)))
  return "\n".join(lines)


def xpk_commands(
  sweep: Sweep, command: Sequence[str], options: str = ""
) -> str:
  """One workload for each point; the second group needs the first's results.

  Args:
    sweep: the points.
    command: `python -m launch.sweep` with the flags that all jobs share; its
      directories are seen by all of them.
    options: further ones of xpk, such as "--cluster=C --tpu-type=v5p-8".

  Returns:
    Lines for a shell.
  """
  # Kubernetes takes small letters, digits and hyphens; two sweeps may meet.
  words = re.findall("[a-z0-9]+", sweep.workdir.name.lower())
  prefix = "-".join(["sweep", *words])[:30].rstrip("-")
  titles = ("# autoencoders", "# when those have finished")
  lines = []
  for title, indices in zip(titles, _stages(sweep), strict=True):
    lines += [title] if indices else []
    for index in indices:
      job = shlex.join([*command, f"--index={index}", "--distributed"])
      parts = ["xpk workload create", f"--workload={prefix}-{index}", options]
      parts.append(f"--command={shlex.quote(job)}")
      lines.append(" ".join(filter(None, parts)))
  table = shlex.join([*command, "--collect"])
  return "\n".join([*lines, "# at the end, on a local copy", table])


def _stages(sweep: Sweep) -> tuple[list[int], list[int]]:
  """Numbers of the unfinished points: autoencoders, and all others."""
  stages: tuple[list[int], list[int]] = [], []
  todo = set(sweep.unfinished())
  for index, (name, config) in enumerate(sweep.points.items()):
    if name in todo:
      stages[config.model.predicts].append(index)
  return stages
