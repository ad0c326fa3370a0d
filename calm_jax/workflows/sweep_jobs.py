"""A sweep as jobs of a cluster: shell commands, printed and not run.

Each prints first what other points wait for, such as autoencoders, and
leaves out what is finished: printed again after a failure, it is the rest.
"""

import re
import shlex
from collections.abc import Sequence

from calm_jax.workflows.sweep import Sweep
from calm_jax.workflows.sweep_file import needed_points


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
  """One workload of XPK for each point; see `_cloud_commands`.

  `options` are further ones of xpk, such as "--cluster=C --tpu-type=v5p-8".
  """
  submit = "xpk workload create", "--workload"
  return _cloud_commands(sweep, command, submit, options, length=30)


def gcluster_commands(
  sweep: Sweep, command: Sequence[str], options: str = ""
) -> str:
  """One job of Cluster Toolkit for each point; see `_cloud_commands`.

  `options` are further ones of gcluster, such as "--cluster=C
  --compute-type=v6e-8 --image=I".
  """
  submit = "gcluster job submit", "--name"
  return _cloud_commands(sweep, command, submit, options, length=24)


def _cloud_commands(
  sweep: Sweep,
  command: Sequence[str],
  submit: tuple[str, str],
  options: str,
  length: int,
) -> str:
  """One job for each point; the second group needs the first's results.

  Args:
    sweep: the points.
    command: `python -m launch.sweep` with the flags that all jobs share; its
      directories are seen by all of them.
    submit: what submits a job, and its flag for the name.
    options: further ones of it.
    length: characters of a name, without the number of the point.

  Returns:
    Lines for a shell.
  """
  call, name = submit
  # Kubernetes takes small letters, digits and hyphens; two sweeps may meet.
  words = re.findall("[a-z0-9]+", sweep.workdir.name.lower())
  prefix = "-".join(["sweep", *words])[:length].rstrip("-")
  titles = ("# what others need", "# when those have finished")
  lines = []
  for title, indices in zip(titles, _stages(sweep), strict=True):
    lines += [title] if indices else []
    for index in indices:
      job = shlex.join([*command, f"--index={index}", "--distributed"])
      parts = [call, f"{name}={prefix}-{index}", options]
      parts.append(f"--command={shlex.quote(job)}")
      lines.append(" ".join(filter(None, parts)))
  table = shlex.join([*command, "--collect"])
  return "\n".join([*lines, "# at the end, on a local copy", table])


def _stages(sweep: Sweep) -> tuple[list[int], list[int]]:
  """Numbers of the unfinished points: those others need, and the rest."""
  stages: tuple[list[int], list[int]] = [], []
  todo, first = set(sweep.unfinished()), needed_points(sweep.points)
  for index, name in enumerate(sweep.points):
    if name in todo:
      stages[name not in first].append(index)
  return stages
