"""Trains and scores many named points, and collects them into one table.

    python -m launch.sweep --sweep=experiments/sweep_k.py:tiny --data=DATA \\
      --workdir=RUNS --all
    python -m launch.sweep --sweep=experiments/sweep_k.py:tiny --data=DATA \\
      --workdir=RUNS --collect --report=RUNS/report.html

The same command again goes on where it stopped, and in a second terminal it
takes other points. --index runs one point; --slurm, --gcluster and --xpk print
the commands that run each as a job of its own.
"""

from absl import flags

from launch import distributed, entry

_SWEEP = flags.DEFINE_string(
  "sweep", None, "Sweep file, with its argument after a colon."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Gets a directory a point.")
_DATA = flags.DEFINE_string(
  "data", None, "Prepared directory; WORKDIR/data if absent."
)
_ALL = flags.DEFINE_bool("all", False, "Run all points here, then collect.")
_INDEX = flags.DEFINE_integer("index", None, "Run the point of this number.")
_COLLECT = flags.DEFINE_bool("collect", False, "Write the table of all points.")
_REPORT = flags.DEFINE_string(
  "report", None, "Page to write from the table, as launch.report does."
)
_MARKDOWN = flags.DEFINE_string(
  "markdown", None, "With --report: see --markdown of launch.report."
)
_SLURM = flags.DEFINE_bool("slurm", False, "Print commands for SLURM.")
_GCLUSTER = flags.DEFINE_bool(
  "gcluster", False, "Print commands for gcluster of Cluster Toolkit."
)
_XPK = flags.DEFINE_bool("xpk", False, "Print commands for XPK.")
_JOB_OPTIONS = flags.DEFINE_string(
  "job_options", "", "Further options of sbatch, gcluster or xpk."
)
_POSITIONS = flags.DEFINE_string(
  "positions", "grid:8", "Where to score; one grid for all K."
)
_NUM_SAMPLES = flags.DEFINE_integer(
  "num_samples", 16, "Independent samples of each position, at least 2."
)
_NUM_ROWS = flags.DEFINE_integer("num_rows", 256, "Held-out windows to score.")
flags.mark_flags_as_required(["sweep", "workdir"])


def main(arguments: list[str]) -> None:
  del arguments
  from calm_jax.evaluation.result_file import check_output
  from calm_jax.scaling.collect import collect
  from calm_jax.scaling.markdown_block import split_block
  from calm_jax.workflows import sweep_run
  from calm_jax.workflows.sweep import Sweep
  from calm_jax.workflows.sweep_file import read_sweep_file
  from calm_jax.workflows.sweep_jobs import (
    gcluster_commands,
    slurm_commands,
    xpk_commands,
  )
  from calm_jax.workflows.sweep_point import Scoring

  is_one = _INDEX.value is not None
  switches = (_ALL, _COLLECT, _SLURM, _GCLUSTER, _XPK)
  if is_one + sum(switch.value for switch in switches) != 1:
    raise ValueError(
      "give one of --all, --index, --collect, --slurm, --gcluster, --xpk."
    )
  if distributed.is_asked() and not is_one:
    raise ValueError(
      "several processes make one point together; give them --index, and --all"
      " to a single one."
    )
  if _REPORT.value and not (_ALL.value or _COLLECT.value):
    raise ValueError("--report needs a table; give --all or --collect, too.")
  if _MARKDOWN.value and not _REPORT.value:
    raise ValueError("--markdown goes with --report=PAGE; give both.")
  data = _DATA.value or f"{_WORKDIR.value}/data"
  sweep = Sweep(
    read_sweep_file(_SWEEP.value),
    _WORKDIR.value,
    data,
    Scoring(
      positions=_POSITIONS.value,
      num_samples=_NUM_SAMPLES.value,
      num_rows=_NUM_ROWS.value,
    ),
  )
  printers = (
    (_SLURM, slurm_commands),
    (_GCLUSTER, gcluster_commands),
    (_XPK, xpk_commands),
  )
  commands_fn = next((call for flag, call in printers if flag.value), None)
  if commands_fn is not None:
    shared = (_SWEEP, _WORKDIR, _POSITIONS, _NUM_SAMPLES, _NUM_ROWS)
    command = [f"--{flag.name}={flag.value}" for flag in shared]
    command += [f"--data={data}", *entry.shared_flags()]
    command = ["python", "-m", "launch.sweep", *command]
    print(commands_fn(sweep, command, _JOB_OPTIONS.value))
    return
  if is_one:
    name = sweep.name(_INDEX.value)
    with distributed.joined():
      status = sweep_run.run_point(sweep, name)
    sweep_run.check_finished({name: status})
    return
  if _ALL.value:
    sweep.workdir.mkdir(parents=True, exist_ok=True)
  check_output(_REPORT.value, "report")
  if _MARKDOWN.value:
    split_block(_MARKDOWN.value)
  statuses = sweep_run.run_all(sweep) if _ALL.value else {}
  if sweep_run.Status.STOPPED not in statuses.values():
    files = sweep.result_files()
    table = collect(files, _WORKDIR.value)
    left = len(sweep.points) - len(files)
    print(f"{len(table)} points in {_WORKDIR.value}/table.csv; {left} to do")
    if _REPORT.value:
      from calm_jax.scaling.report import write_report

      write_report(_WORKDIR.value, _REPORT.value, markdown=_MARKDOWN.value)
  sweep_run.check_finished(statuses)


if __name__ == "__main__":
  entry.run(main)
