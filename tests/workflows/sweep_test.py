"""Tests workflows/sweep*.py, scaling/collect.py and launch/sweep.py."""

import collections
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from calm_jax.scaling.collect import collect
from calm_jax.scaling.markdown_block import BEGIN, END, split_block
from calm_jax.scaling.points import read_points
from calm_jax.scaling.report import build_page, read_study
from calm_jax.training.metrics import MetricsWriter
from calm_jax.workflows import sweep_jobs, sweep_run
from calm_jax.workflows.sweep import Sweep
from calm_jax.workflows.sweep_file import read_sweep_file
from calm_jax.workflows.sweep_point import Scoring
from calm_jax.workflows.sweep_run import Status
from tests.data.prepared import prepare
from tests.integration import runs

_SCORING = Scoring(num_samples=2, num_rows=4)
_SWEEP = """
from calm_jax import config

def get_sweep(argument):
  yield "token", make(config.TokenModelConfig(**sizes(16)))
  yield "ae", make(config.AutoencoderConfig(
    chunk_size=2, latent_size=8, hidden_size=16, ffn_size=16))
  for name in ("calm",):
    head = config.EnergyHeadConfig(num_mlp_layers=1, num_targets=4)
    model = config.NextVectorConfig(chunk_size=2, head=head, **sizes(32))
    yield name, make(model, autoencoder_run="ae")

def sizes(size):
  return dict(hidden_size=size, ffn_size=16, num_layers=1, num_heads=2)

def make(model, **others):
  data = config.DataConfig(row_length=32)
  optimizer = config.OptimizerConfig(learning_rate=0.01, num_warmup_steps=1)
  return config.ExperimentConfig(
    model=model, data=data, optimizer=optimizer, num_steps=4,
    log_interval=1, save_interval=2, **others)
"""


@pytest.fixture(scope="module", autouse=True)
def little_compiling():
  """Compiling for eight takes longer, and so does compiling twice."""
  devices = jax.devices()[:1]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, "devices", lambda *_: devices)
    patch.setattr(jax, "clear_caches", lambda: None)
    yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A directory with the sweep file and its data."""
  directory = tmp_path_factory.mktemp("sweep")
  (directory / "sweep.py").write_text(_SWEEP)
  text = "the quick brown fox jumps over the lazy dog. "
  prepare(directory, [text * 20] * 8, [text * 9] * 3)
  return directory


def _open(place, workdir, scoring=_SCORING):
  points = read_sweep_file(f"{place}/sweep.py")
  return Sweep(points, workdir, place / "store", scoring)


@pytest.fixture(scope="module")
def finished(place):
  """A sweep that nothing interrupted, and its table."""
  sweep = _open(place, place / "whole")
  assert list(sweep_run.run_all(sweep)) == ["ae", "token", "calm"]
  collect(sweep.result_files(), sweep.workdir)
  return sweep


class _Killed(BaseException):
  """Stands for a signal that ends the process at once."""


def test_killed_anywhere_gives_the_same_table(place, finished, monkeypatch):
  sweep = _open(place, place / "killed")
  written, deaths = collections.Counter(), []
  num_left = 0  # calls until death

  def make_mortal(owner, name, *, is_after):
    original = getattr(owner, name)

    def call(*args, **kwargs):
      nonlocal num_left
      num_left -= 1
      is_last = num_left == 0
      if not is_last or is_after:
        result = original(*args, **kwargs)
      if is_last:
        deaths.append((name, is_after))
        raise _Killed
      return result

    monkeypatch.setattr(owner, name, call)

  def write(path, result, original=sweep_run.write_result):
    original(path, result)
    written[path] += 1

  monkeypatch.setattr(sweep_run, "write_result", write)
  make_mortal(MetricsWriter, "write", is_after=True)
  make_mortal(sweep_run, "score_point", is_after=False)
  make_mortal(sweep_run, "write_result", is_after=False)
  make_mortal(sweep_run, "write_result", is_after=True)
  for num_left in (3, 8, 3, 3, 2, 3):  # noqa: B007
    with pytest.raises(_Killed):
      sweep_run.run_all(sweep)
  assert len(set(deaths)) == 4  # each place, and training three times
  sweep_run.run_all(sweep)
  assert set(written.values()) == {1} and len(written) == 3
  collect(sweep.result_files(), sweep.workdir)
  for name in ("table.csv", "table.parquet"):
    whole = (finished.workdir / name).read_bytes()
    assert (sweep.workdir / name).read_bytes() == whole
  assert sweep_run.run_all(sweep) == {}  # nothing is left to do


def test_table_and_page_have_all_points(finished):
  for suffix in ("csv", "parquet"):
    points = read_points(finished.workdir / f"table.{suffix}")
    assert [point.name for point in points] == ["token", "calm"]
    assert all(
      point.tokens == 4 * 8 * 32
      and {"brier_1", "brier_4"}
      <= point.scores.keys()
      <= point.errors.keys() | {"brier_lm"}
      for point in points
    )
    token, calm = points
    # 44 bytes of ASCII a sentence, and two ids at a document's ends.
    assert 0.9 < token.bytes_per_token == calm.bytes_per_token < 1.1
    assert token.backbone_parameters < token.parameters
    assert (calm.autoencoder_users, token.autoencoder_users) == (1, 1)
    assert calm.autoencoder_parameters > 0 == token.autoencoder_parameters
    study = read_study(finished.workdir)
  assert {sample["name"] for sample in study.results["samples"]} == {
    "token",
    "calm",
  }
  assert len(study.results["trade_off"]["calm"]) == 3
  assert study.results["settings"]["positions"] == "grid:8"
  assert len(study.results["ae"]["std_per_dimension"]) == 8
  page = build_page(study).html()
  for words in (
    "Results: ae",
    "Samples",
    "Accuracy and collision",
    "No law: ",
    "Health of the autoencoder",
    "Learning curves: next vector, K = 2",
    "config of calm",
  ):
    assert words in page


def test_answered_questions_of_one_task_enter_the_table(finished, tmp_path):
  results = {}
  for name in ("token", "calm"):
    results[name] = tmp_path / name / "result.json"
    results[name].parent.mkdir()
    results[name].write_bytes(finished.result_file(name).read_bytes())
    choices = {"accuracy": 0.5, "chance": 0.25, "log_score": -9.0, "step": 4}
    choices |= {"accuracy_stderr": 0.1, "task_hash": name}
    choices |= {"estimate": name, "estimates": {"exact": {"log_score": -9}}}
    (tmp_path / name / "choices.json").write_text(json.dumps(choices))
  with pytest.raises(ValueError, match="answer different questions; scores of"):
    collect(results, tmp_path)
  choices = tmp_path / "calm/choices.json"
  choices.write_text(
    choices.read_text().replace('task_hash": "calm', 'task_hash": "token')
  )
  with pytest.raises(ValueError, match="accuracies of one table are those of"):
    collect(results, tmp_path)
  (tmp_path / "calm/choices.json").unlink()
  token, calm = collect(results, tmp_path)
  assert token.scores["cloze_nats"] == 9
  assert "cloze_nats" not in calm.scores


@pytest.mark.parametrize("samples", [5, ["x"]])
def test_damaged_samples_are_refused_by_name(finished, tmp_path, samples):
  path = tmp_path / "result.json"
  result = json.loads(finished.result_file("token").read_text())
  path.write_text(json.dumps(result | {"samples": samples}))
  with pytest.raises(ValueError, match=r"result\.json: samples is not a list"):
    collect({"token": path}, tmp_path)


def test_one_failure_leaves_the_rest(place, tmp_path, monkeypatch):
  sweep = _open(place, tmp_path)

  def train(config, directory, name):
    if name == "ae":
      raise RuntimeError("out of\nluck")
    return True

  monkeypatch.setattr(sweep_run, "train_point", train)
  monkeypatch.setattr(sweep_run, "score_point", lambda *args: {})
  statuses = sweep_run.run_all(sweep)
  assert statuses == {
    "ae": Status.FAILED,
    "token": Status.FINISHED,
    "calm": Status.WAITING,
  }
  assert "RuntimeError: out of" in (tmp_path / "ae/error.txt").read_text()
  with pytest.raises(ValueError, match=r"not finished: ae \(failed\), calm"):
    sweep_run.check_finished(statuses)
  monkeypatch.setattr(sweep_run, "train_point", lambda *args: True)
  assert set(sweep_run.run_all(sweep).values()) == {Status.FINISHED}
  assert not (tmp_path / "ae/error.txt").exists()


def test_a_point_belongs_to_one_process(place, tmp_path, monkeypatch):
  sweep, twin = _open(place, tmp_path), _open(place, tmp_path)

  def train(config, directory, name):
    assert sweep_run.run_point(twin, name) is Status.BUSY
    return True

  monkeypatch.setattr(sweep_run, "train_point", train)
  monkeypatch.setattr(sweep_run, "score_point", lambda *args: {})
  assert sweep_run.run_point(sweep, "ae") is Status.FINISHED
  assert sweep_run.run_point(twin, "ae") is Status.FINISHED


def test_a_signal_stops_the_whole(place, tmp_path):
  sweep = _open(place, tmp_path)
  for config in sweep.points.values():
    config.num_steps = 10**6
  original = MetricsWriter.write

  def write(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    return original(*args)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(MetricsWriter, "write", write)
    assert sweep_run.run_all(sweep) == {"ae": Status.STOPPED}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"fingerprint": None}, "of another config and data and scoring"),
    ({"fingerprint": {"config": "0"}}, "foreign"),
    ("{", "is damaged"),
    ('{"brier_1": NaN}', "it holds NaN"),
    ("[]", "no JSON object"),
  ],
)
def test_foreign_and_damaged_results_are_refused(
  place, finished, tmp_path, change, message
):
  sweep = _open(place, tmp_path)
  path = tmp_path / "token/result.json"
  path.parent.mkdir()
  if isinstance(change, dict):
    result = json.loads(finished.result_file("token").read_text())
    change = json.dumps(result | change)
  path.write_text(change)
  with pytest.raises(ValueError, match=message) as error:
    sweep_run.run_all(sweep)
  assert str(path) in str(error.value) and "\n" not in str(error.value)
  assert list(tmp_path.iterdir()) == [path.parent]  # no work was begun


def test_another_scoring_asks_for_new_scores_only(place, finished):
  sweep = _open(place, finished.workdir, Scoring(num_samples=3, num_rows=4))
  with pytest.raises(ValueError, match="remove the file to score"):
    sweep.unfinished()


def test_a_run_of_other_length_is_refused(place, finished):
  sweep = _open(place, finished.workdir)
  sweep.points["token"].num_steps = 5
  directory = sweep.directory("token")
  with pytest.raises(ValueError, match="was begun for 4 steps"):
    sweep_run.train_point(sweep.points["token"], directory, "token")
  sweep.points["token"].num_steps = 4
  sweep.points["token"].optimizer.learning_rate = 0.5
  with pytest.raises(ValueError, match=r"optimizer\.learning_rate") as error:
    sweep_run.train_point(sweep.points["token"], directory, "token")
  assert "allow_change" not in str(error.value)


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ('("calm",)', '("calm", "calm")', "two points 'calm'"),
    ('"token"', '"../token"', "is that of its directory"),
    ('"token"', "3", "is a pair"),
    ('run="ae"', 'run="token"', "no autoencoder of this sweep"),
    ("(\n    chunk_size=2", "(\n    chunk_size=4", "train one for each"),
    ("def get_sweep", "def sweep", "no get_sweep"),
    ("num_steps=4", "num_steps=0", "num_steps is 0"),
    ("num_steps=4", "num_stops=4", "cannot be read"),
  ],
)
def test_bad_sweep_files_are_refused(tmp_path, old, new, message):
  assert old in _SWEEP
  path = tmp_path / "sweep.py"
  path.write_text(_SWEEP.replace(old, new))
  with pytest.raises(ValueError, match=message) as error:
    read_sweep_file(str(path))
  assert "\n" not in str(error.value)


_TAUGHT = """
import dataclasses
untaught = get_sweep

def get_sweep(argument):
  points = dict(untaught(argument))
  yield from points.items()
  calm = points["calm"]
  data = dataclasses.replace(calm.data, teacher_run="token")
  yield "taught", dataclasses.replace(calm, data=data)
"""


def test_a_point_may_teach_another(place, finished, tmp_path):
  shutil.copytree(finished.workdir, tmp_path / "runs")
  path = tmp_path / "sweep.py"
  path.write_text(_SWEEP + _TAUGHT)
  points = read_sweep_file(str(path))
  assert list(points) == ["token", "ae", "calm", "taught"]
  sweep = Sweep(points, tmp_path / "runs", place / "store", _SCORING)
  assert sweep.unfinished() == ["taught"]
  (tmp_path / "runs/token/result.json").rename(tmp_path / "away")
  assert sweep_run.run_point(sweep, "taught") is Status.WAITING
  (tmp_path / "away").rename(tmp_path / "runs/token/result.json")
  assert sweep_run.run_all(sweep) == {"taught": Status.FINISHED}
  before, after = (sweep.result(name) for name in ("calm", "taught"))
  assert before["energy_loss"] != after["energy_loss"]
  sweep.points["token"].seed = 1
  with pytest.raises(ValueError, match="of another teacher"):
    sweep.result("taught")
  for old, new, message in (
    ('run="token"', 'run="ae"', "no token model of this sweep"),
    (
      'points["calm"]',
      'points["token"]',
      "of kind 'token', which is not taught",
    ),
  ):
    assert old in _TAUGHT
    path.write_text(_SWEEP + _TAUGHT.replace(old, new))
    with pytest.raises(ValueError, match=message):
      read_sweep_file(str(path))


def test_empty_sweeps_are_refused(place, tmp_path):
  path = tmp_path / "sweep.py"
  path.write_text("get_sweep = lambda argument: []")
  with pytest.raises(ValueError, match="names 0 points"):
    read_sweep_file(str(path))
  with pytest.raises(ValueError, match="one of tiny, small, tiny_paper"):
    read_sweep_file("experiments/sweep_k.py:huge")
  with pytest.raises(OSError, match="no sweep file"):
    read_sweep_file(f"{tmp_path}/none.py:tiny")
  sweep = _open(place, tmp_path)
  with pytest.raises(ValueError, match="no finished next-vector or token"):
    collect(sweep.result_files(), tmp_path)
  with pytest.raises(ValueError, match="is remote"):
    collect(sweep.result_files(), "gs://bucket/sweep")
  with pytest.raises(ValueError, match="numbered 0 to 2"):
    sweep.name(4)


@pytest.mark.parametrize("positions", ["grid:9", "paper:2"])
def test_positions_fit_all_points_or_none_is_run(place, tmp_path, positions):
  with pytest.raises(ValueError, match=f"point '.*': .*{positions}"):
    _open(place, tmp_path, Scoring(positions=positions))


def test_jobs_are_shell_commands_of_what_is_left(place, tmp_path):
  sweep = _open(place, tmp_path / "a b")
  command = ["python", "-m", "launch.sweep", "--workdir=a b"]
  first, rest, table = sweep_jobs.slurm_commands(
    sweep, command, "--gpus=1"
  ).splitlines()
  words = shlex.split(first[len("first=$(") : -1])
  assert words[-2:] == [
    "--array=0",
    "--wrap=python -m launch.sweep '--workdir=a b'"
    " --index=$SLURM_ARRAY_TASK_ID",
  ]
  assert "--gpus=1 --dependency=afterany:$first --array=1,2 " in rest
  assert table.startswith("sbatch --gpus=1 --dependency=afterany:$rest ")
  assert "--collect" in table
  lines = sweep_jobs.xpk_commands(sweep, command).splitlines()
  assert [line for line in lines if line.startswith("#")] == [
    "# what others need",
    "# when those have finished",
    "# at the end, on a local copy",
  ]
  assert "--workload=sweep-a-b-0" in lines[1]
  assert shlex.split(lines[1])[-1] == (
    "--command=python -m launch.sweep '--workdir=a b' --index=0 --distributed"
  )
  lines = sweep_jobs.gcluster_commands(sweep, command, "--image=i").splitlines()
  assert lines[1].startswith(
    "gcluster job submit --name=sweep-a-b-0 --image=i "
  )


def test_binary_says_mistakes_in_one_line(tmp_path):
  sweep = "--sweep=experiments/sweep_k.py:tiny"
  for flags, words in (
    ([sweep], "give one of --all"),
    ([sweep, "--all"], "data"),
  ):
    result = subprocess.run(
      [sys.executable, "-m", "launch.sweep", f"--workdir={tmp_path}", *flags],
      capture_output=True,
      text=True,
      check=False,
    )
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*\n", result.stderr), result.stderr
    assert words in result.stderr
  assert list(tmp_path.iterdir()) == []


def test_binary_prints_jobs_with_all_of_its_flags(place, tmp_path):
  result = subprocess.run(
    [
      *(sys.executable, "-m", "launch.sweep", f"--sweep={place}/sweep.py"),
      *(f"--workdir={tmp_path}", f"--data={place}/store", "--slurm"),
      *(f"--compilation_cache={tmp_path}/cache", "--debug"),
    ],
    capture_output=True,
    text=True,
    check=True,
    env=runs.environment(),
  )
  for line in result.stdout.splitlines():
    assert f"--compilation_cache={tmp_path}/cache" in line
    assert "--debug=True" in line


@pytest.mark.parametrize("flag", ["report", "markdown"])
def test_pages_that_cannot_be_written_are_refused_first(place, tmp_path, flag):
  pages = {"report": f"{tmp_path}/page.html"} | {flag: f"{tmp_path}/none/page"}
  with pytest.raises(subprocess.CalledProcessError) as error:
    subprocess.run(
      [
        *(sys.executable, "-m", "launch.sweep", f"--sweep={place}/sweep.py"),
        *(f"--workdir={tmp_path}", f"--data={place}/store", "--all"),
        *(f"--{name}={path}" for name, path in pages.items()),
      ],
      capture_output=True,
      text=True,
      check=True,
      env=runs.environment(),
    )
  assert f"error: --{flag}={tmp_path}/none/page" in error.value.stderr
  assert list(tmp_path.iterdir()) == []


def test_binary_runs_the_point_of_a_number(place, tmp_path):
  command = [
    *(sys.executable, "-m", "launch.sweep", "--index=1"),
    *(f"--sweep={place}/sweep.py", f"--data={place}/store"),
    *(f"--workdir={tmp_path}", "--num_rows=4", "--num_samples=2"),
  ]
  subprocess.run(command, env=runs.environment(), check=True)
  (path,) = tmp_path.glob("*/result.json")
  assert path.parent.name == _open(place, tmp_path).name(1)


def test_one_command_writes_table_page_and_documentation(
  place, finished, tmp_path
):
  for path in finished.workdir.glob("*/result.json"):
    (tmp_path / path.parent.name).mkdir()
    (tmp_path / path.parent.name / path.name).write_bytes(path.read_bytes())
  docs = tmp_path / "scaling.md"
  docs.write_text(f"before\n{BEGIN}\nearlier text\n{END}\nafter\n")
  flags = (f"--report={tmp_path}/page.html", f"--markdown={docs}")
  assert _start(place, tmp_path, "--collect", *flags).wait() == 0
  for name in ("table.csv", "table.parquet"):
    whole = (finished.workdir / name).read_bytes()
    assert (tmp_path / name).read_bytes() == whole
  assert "How many tokens" in (tmp_path / "page.html").read_text()
  before, between, after = split_block(docs)
  assert (before, after) == ("before\n", "\nafter\n")
  assert "earlier text" not in between and "No law of CALMs: " in between
  for extra, words in (
    (["--index=0", flags[0]], "give --all or --collect, too"),
    (["--collect", flags[1]], "goes with --report=PAGE"),
  ):
    command = [sys.executable, "-m", "launch.sweep", *extra]
    command += [f"--sweep={place}/sweep.py", f"--workdir={tmp_path}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1 and words in found.stderr


def test_ladders_are_whole():
  """Enough sizes, budgets and K for the laws of both families."""
  for size in ("tiny", "tiny_paper", "small"):
    points = read_sweep_file(f"experiments/sweep_k.py:{size}")
    assert len(points) == len(set(points))
    by_kind = collections.defaultdict(set)
    for config in points.values():
      model = config.model
      by_kind[model.kind].add(
        (model.hidden_size, config.num_steps, model.chunk_size)
      )
    for kind, number in (("token", 1), ("next_vector", 3)):
      hidden, steps, chunk_sizes = map(set, zip(*by_kind[kind], strict=True))
      assert len(hidden) >= 3 and len(steps) >= 3
      assert len(chunk_sizes) >= number
      total = len(hidden) * len(steps) * len(chunk_sizes)
      assert len(by_kind[kind]) == total


def test_a_ladder_that_is_cut_off_is_a_smaller_ladder():
  """Every size with every K before a longer budget; seeds before the last."""
  names = list(read_sweep_file("experiments/sweep_k.py:small"))
  assert len(names) == 79
  assert all(name.startswith("autoencoder-k") for name in names[:4])
  found = [re.search(r"-d(\d+)-(\d+)steps-seed(\d)", it) for it in names[4:]]
  rounds = [(int(it[2]), int(it[3])) for it in found]
  assert list(dict.fromkeys(rounds)) == [
    *((250, 0), (750, 0), (250, 1), (250, 2), (2250, 0))
  ]
  assert all(rounds.count(it) == 15 for it in rounds)
  # Of one size all K, the token model's included, before the next.
  assert [it[1] for it in found[:15]] == ["128"] * 5 + ["256"] * 5 + ["384"] * 5


def _start(place, workdir, *flags):
  """`launch.sweep --all` in a process of its own."""
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "launch.sweep", *(flags or ["--all"])),
      *(f"--sweep={place}/sweep.py", f"--data={place}/store"),
      *(f"--workdir={workdir}", "--num_rows=4", "--num_samples=2"),
    ],
    env=runs.environment(),
    stdout=subprocess.DEVNULL,
  )


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_killed_ten_times_give_the_same_table(place, tmp_path):
  """Each kill takes one of the two at random, and another takes its place."""
  assert _start(place, tmp_path / "whole").wait() == 0
  killed, rng, num_kills, finished_at = (
    tmp_path / "two",
    random.Random(0),
    0,
    {},
  )
  pair = [_start(place, killed) for _ in range(2)]

  def check_written_once():
    for path in killed.glob("*/result.json"):
      when = path.stat().st_mtime_ns
      assert finished_at.setdefault(path, when) == when

  while num_kills < 10:
    time.sleep(rng.uniform(1, 8))
    victim = rng.randrange(2)
    num_kills += pair[victim].poll() is None
    pair[victim].kill()
    pair[victim].wait()
    check_written_once()
    pair[victim] = _start(place, killed)
  for process in pair:
    process.wait()
  assert _start(place, killed).wait() == 0
  check_written_once()
  assert len(finished_at) == 3
  for name in ("table.csv", "table.parquet"):
    whole = (tmp_path / "whole" / name).read_bytes()
    assert (killed / name).read_bytes() == whole


@pytest.mark.slow
def test_binary_killed_at_random_gives_the_same_table(place, tmp_path):
  def written():
    """Modification times of all metrics and results."""
    files = [*killed.glob("*/metrics.jsonl"), *killed.glob("*/result.json")]
    return {path: path.stat().st_mtime_ns for path in files}

  assert _start(place, tmp_path / "whole").wait() == 0
  killed = tmp_path / "killed"
  rng, num_kills, finished_at = random.Random(0), 0, {}
  while not (killed / "table.csv").exists():
    process, before = _start(place, killed), written()
    num_left, delay = rng.randint(1, 6), rng.uniform(0, 1)
    while process.poll() is None and num_left:
      time.sleep(0.01)
      num_left -= written() != before
      before = written()
    time.sleep(delay)
    num_kills += process.poll() is None
    process.kill()
    process.wait()
    for path, when in written().items():
      if path.name == "result.json":
        assert finished_at.setdefault(path, when) == when
  assert num_kills >= 2
  for name in ("table.csv", "table.parquet"):
    whole = (tmp_path / "whole" / name).read_bytes()
    assert (killed / name).read_bytes() == whole
