"""Real processes on one machine: one run by any number of them."""

import signal
import time

import jax
import numpy as np
import pytest

from calm_jax.checkpoint.run_directory import load_run
from calm_jax.checkpoint.steps import list_steps
from calm_jax.json_files import read_json, read_rows
from tests.integration import runs
from tests.integration.scene import (
  EXIT_SECONDS,
  cluster_flags,
  wait_all,
)
from tests.perturbation import relative_error
from tests.quick_compiling import xla_flags

pytestmark = pytest.mark.processes

_NUM_DEVICES = 4  # whatever the number of processes
_NUM_STEPS = 8


@pytest.fixture
def start(material, binaries):
  """Starts the processes of a run."""
  started = []

  def start_all(count, stage, workdir, initial_run=None, **changes):
    settings = {
      "data__batch_size": 4,
      "mesh__fsdp": _NUM_DEVICES,
      "log_interval": 1,
      "save_interval": 2,
      "eval_interval": 2,
      "num_eval_rows": 4,
      "num_steps": _NUM_STEPS,
      "optimizer__schedule": "constant",  # the others know the last step
      "optimizer__num_warmup_steps": 1,
      **changes,
    }
    devices = _NUM_DEVICES // count
    initial = [f"--initial_run={initial_run}"] if initial_run else []
    running = [
      binaries.start(
        "train",
        *runs.train_flags(stage, **settings),
        f"--workdir={workdir}",
        *initial,
        *flags,
        directory=material,
        environment={"XLA_FLAGS": xla_flags(devices)},
      )
      for flags in cluster_flags(count)
    ]
    started.extend(running)
    return running

  yield start_all
  for process in started:
    process.send(signal.SIGKILL)
    process.wait(EXIT_SECONDS)


def _finish(processes):
  """Waits for all; only the first one may have printed anything."""
  for process in processes:
    finished = process.wait(300)
    assert finished is not None and finished.code == 0, finished
  assert "finished at step" in processes[0].finished.stderr
  for process in processes[1:]:
    assert process.finished.stdout + process.finished.stderr == ""


def _assert_same_curve(found, expected):
  """Every row once, with the numbers of the other run but for rounding."""
  found, expected = read_rows(found), read_rows(expected)
  assert [row["step"] for row in found] == [row["step"] for row in expected]
  names = ("loss", "gradient_norm", "valid/loss", "cross_entropy")
  for a, b in zip(found, expected, strict=True):
    assert {*a} == {*b}
    for name in {*names} & {*a}:
      assert relative_error(a[name], b[name]) < 1e-4, (a, b)


@pytest.mark.parametrize(
  "stage", ["calm", pytest.param("autoencoder", marks=pytest.mark.slow)]
)
def test_a_run_goes_on_with_any_number_of_processes(stage, start, material):
  _finish(start(1, stage, f"{stage}_one"))
  for count, num_steps in ((2, 2), (1, 4), (4, _NUM_STEPS)):
    _finish(start(count, stage, f"{stage}_many", num_steps=num_steps))
  _assert_same_curve(
    material / f"{stage}_many" / "metrics.jsonl",
    material / f"{stage}_one" / "metrics.jsonl",
  )


def test_several_processes_start_from_the_parameters_of_a_run(start, material):
  _finish(
    start(
      2,
      "autoencoder",
      "started",
      initial_run="autoencoder",
      optimizer__learning_rate=1e-20,  # too little to be seen
      num_steps=2,
    )
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    load_run(material / "started").params,
    load_run(material / "autoencoder").params,
  )


def _wait_for_step(path, step):
  deadline = time.monotonic() + 600
  while max(list_steps(path / "steps"), default=0) < step:
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_a_signal_to_one_process_saves_on_all_and_ends_well(start, material):
  processes = start(2, "calm", "signalled", num_steps=100_000)
  _wait_for_step(material / "signalled", 4)
  processes[1].send(signal.SIGTERM)
  assert None not in wait_all(processes, EXIT_SECONDS)
  assert [process.finished.code for process in processes] == [0, 0]
  said = processes[0].finished.stderr
  newest = list_steps(material / "signalled" / "steps")[-1]
  assert "stopped by a signal and saved" in said and f"step {newest}:" in said


@pytest.mark.parametrize("victim", [0, 1])
def test_the_loss_of_one_process_ends_the_other(victim, start, material):
  workdir = f"bereft_{victim}"
  processes = start(2, "calm", workdir, num_steps=100_000)
  _wait_for_step(material / workdir, 4)
  processes[victim].send(signal.SIGKILL)
  assert None not in wait_all(processes, EXIT_SECONDS)
  other = processes[1 - victim].finished
  assert other.code not in (None, 0)
  # jax's own threads may see the loss first and log it above our line.
  lines = runs.terminal_lines(other.stderr)
  said = [line for line in lines if line.startswith("error:")]
  start = f"error: process {1 - victim} of 2 ends, because another one was lost"
  assert len(said) == 1 and said[0].startswith(start), other.stderr
  assert lines[-1] == said[0] and "Traceback" not in other.stderr


def _start_all(binaries, directory, count, name, *flags):
  """Starts a binary in processes that share all devices."""
  environment = {"XLA_FLAGS": xla_flags(_NUM_DEVICES // count)}
  return [
    binaries.start(
      name, *flags, *own, directory=directory, environment=environment
    )
    for own in cluster_flags(count)
  ]


def _wait_well(processes):
  for process in processes:
    finished = process.wait(300)
    assert finished is not None and finished.code == 0, finished
  for process in processes[1:]:
    assert process.finished.stdout + process.finished.stderr == ""


def _assert_same_scores(found, expected):
  assert {*found} == {*expected}
  for key, value in expected.items():
    if isinstance(value, float) and "_minus_" not in key:
      assert found[key] == pytest.approx(value, rel=1e-6, abs=1e-7), key


@pytest.mark.parametrize("mesh", ["data", "fsdp"])
def test_two_processes_score_as_one(mesh, start, material, binaries):
  workdir = f"scored_{mesh}"
  _finish(start(1, "calm", workdir))
  results = []
  for count in (1, 2):
    output = f"{workdir}_{count}.json"
    flags = [
      f"--checkpoint={workdir}",
      *("--data=data", "--num_rows=6", "--batch_size=1", "--num_samples=2"),
      *("--permuted", f"--output={output}"),
      *([] if mesh == "data" else ["--mesh.data=2", "--mesh.fsdp=2"]),
    ]
    processes = _start_all(binaries, material, count, "evaluate", *flags)
    _wait_well(processes)
    assert "brier_1" in processes[0].finished.stdout
    results.append(read_json(material / output))
  _assert_same_scores(*results)


def test_more_processes_than_rows_are_refused(start, material, binaries):
  _finish(start(1, "calm", "few_rows", num_steps=2))
  flags = ["--checkpoint=few_rows", "--data=data", "--num_rows=1"]
  processes = _start_all(binaries, material, 2, "evaluate", *flags)
  for process in processes:
    finished = process.wait(120)
    assert finished is not None and finished.code == 1, finished
    (said,) = runs.terminal_lines(finished.stderr)
    assert "2 processes share 1 rows" in said


def test_two_processes_write_as_one(start, material, binaries):
  _finish(start(1, "calm", "written"))
  results = []
  for count in (1, 2):
    output = f"written_{count}.json"
    flags = [
      *("--checkpoint=written", "--prompt=The", "--num_samples=3"),
      *("--num_tokens=12", "--num_candidates=20", f"--output={output}"),
    ]
    processes = _start_all(binaries, material, count, "generate", *flags)
    _wait_well(processes)
    results.append(read_json(material / output)["continuations"])
    assert processes[0].finished.stdout.count("--- prompt 1") == 3
  assert results[0] == results[1]


def test_two_processes_follow_a_run(start, material, binaries):
  flags = [
    *("--checkpoint=followed", "--data=data", "--num_rows=4"),
    *("--batch_size=1", "--num_samples=2"),
  ]
  follow = ["--follow", "--wait_seconds=300", "--output=followed_2.jsonl"]
  following = _start_all(binaries, material, 2, "evaluate", *flags, *follow)
  _finish(start(1, "calm", "followed"))
  _wait_well(following)
  found = {row["step"]: row for row in read_rows(material / "followed_2.jsonl")}
  assert max(found) == _NUM_STEPS
  steps = [*{*found} & {*list_steps(material / "followed" / "steps")}]
  flags += [f"--steps={','.join(map(str, steps))}", "--output=followed.jsonl"]
  _wait_well(_start_all(binaries, material, 1, "evaluate", *flags))
  expected = read_rows(material / "followed.jsonl")
  assert len(expected) == len(steps) >= 1
  for row in expected:
    _assert_same_scores(found[row["step"]], row)


def test_two_processes_explore_as_one(start, material, binaries):
  pytest.importorskip("matplotlib")
  _finish(start(1, "calm", "explored"))
  results = []
  for count in (1, 2):
    flags = [
      *("--checkpoint=explored", "--data=data", "--num_rows=4"),
      *("--batch_size=4", "--num_samples=4", "--temperatures=1,0.5"),
      *("--candidate_counts=8", "--noise_scales=0.5"),
      f"--output=explored_{count}.json",
    ]
    _wait_well(_start_all(binaries, material, count, "explore", *flags))
    results.append(read_json(material / f"explored_{count}.json")["points"])
  one, two = results
  assert len(one) == len(two) >= 3
  for expected, found in zip(one, two, strict=True):
    _assert_same_scores(found, expected)


_SWEEP = """
from calm_jax import config

def get_sweep(argument):
  sizes = dict(hidden_size=16, ffn_size=16, num_layers=1, num_heads=2)
  yield "autoencoder", make(config.AutoencoderConfig(
    chunk_size=4, latent_size=8, hidden_size=16, ffn_size=16))
  head = config.EnergyHeadConfig(num_mlp_layers=1, num_targets=4)
  yield "calm", make(config.NextVectorConfig(
    chunk_size=4, head=head, **sizes), autoencoder_run="autoencoder")
  yield "token", make(config.TokenModelConfig(**sizes))

def make(model, **others):
  return config.ExperimentConfig(
    model=model, data=config.DataConfig(row_length=32, batch_size=4),
    optimizer=config.OptimizerConfig(num_warmup_steps=1),
    mesh=config.MeshConfig(fsdp=4), num_steps=2, save_interval=2, **others)
"""


def test_two_processes_make_the_points_of_a_sweep(material, binaries):
  (material / "sweep.py").write_text(_SWEEP)

  def make(count, *points):
    flags = [
      *("--sweep=sweep.py", f"--workdir=sweep_{count}", "--data=data"),
      *("--num_rows=4", "--num_samples=2", *points),
    ]
    _wait_well(_start_all(binaries, material, count, "sweep", *flags))

  make(1, "--all")
  for index in range(3):
    make(2, f"--index={index}")
  for name in ("autoencoder", "calm", "token"):
    one, two = (
      read_json(material / f"sweep_{count}" / name / "result.json")
      for count in (1, 2)
    )
    _assert_same_scores(two, one)


# Appended to a sweep: one process is long busy before or after scoring a point.
_LATE = """
import pathlib, time
import jax
from calm_jax.workflows import sweep_run

score_point = sweep_run.score_point

def wait(directory, when):
  if jax.process_index() == {process} and when == "{when}":
    (pathlib.Path(directory) / "scoring").touch()
    time.sleep({seconds})

def score_late(config, directory, *others):
  wait(directory, "before")
  result = score_point(config, directory, *others)
  wait(directory, "after")
  return result

sweep_run.score_point = score_late
"""


def _start_point(binaries, material, sweep, appended, *flags):
  """Two processes make the first point of a sweep."""
  (material / f"{sweep}.py").write_text(_SWEEP + appended)
  return _start_all(
    binaries,
    material,
    2,
    "sweep",
    *(f"--sweep={sweep}.py", f"--workdir={sweep}", "--data=data"),
    *("--index=0", "--num_rows=4", "--num_samples=2"),
    *flags,
  )


def test_scoring_may_outlast_the_barrier_at_the_end(material, binaries):
  late = _LATE.format(process=0, seconds=15, when="after")
  processes = _start_point(
    binaries, material, "late_sweep", late, "--shutdown_seconds=10"
  )
  _wait_well(processes)
  result = read_json(material / "late_sweep" / "autoencoder" / "result.json")
  assert "token_accuracy" in result


@pytest.mark.parametrize("victim", [0, 1])
def test_a_loss_during_scoring_ends_the_other_and_can_be_mended(
  victim, material, binaries
):
  sweep = f"bereft_sweep_{victim}"
  late = _LATE.format(process=victim, seconds=600, when="before")
  processes = _start_point(binaries, material, sweep, late)
  point = material / sweep / "autoencoder"
  deadline = time.monotonic() + 600
  while not (point / "scoring").exists():
    assert time.monotonic() < deadline
    time.sleep(0.02)
  processes[victim].send(signal.SIGKILL)
  other = processes[1 - victim].wait(30)
  assert other is not None and other.code not in (None, 0)
  start = f"error: process {1 - victim} of 2 ends, because another one was lost"
  said = runs.terminal_lines(other.stderr)
  assert sum(line.startswith(start) for line in said) == 1, other.stderr
  assert not (point / "result.json").exists()
  _wait_well(_start_point(binaries, material, sweep, ""))
  assert "token_accuracy" in read_json(point / "result.json")
  assert not (point / "error.txt").exists()
