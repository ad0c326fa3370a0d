"""Tests benchmarks/parts.py with processes whose end is known."""

import json
import subprocess
import sys
import time

import pytest

from benchmarks import parts, suites


def _command(scripts):
  return lambda name, output: [sys.executable, "-c", scripts[name], str(output)]


def test_a_stuck_part_takes_nothing_from_the_others(tmp_path, capfd):
  write = "import sys; print('rows'); open(sys.argv[1], 'w').write('{}')"
  scripts = {
    "first": write,
    "stuck": write + "; sys.stdout.flush(); import time; time.sleep(600)",
    "broken": "import sys; sys.exit(1)",
    "last": write,
  }
  start = time.monotonic()
  found = parts.run_parts(
    _command(scripts),
    minutes=0.2,
    directory=str(tmp_path / "new"),
    shares={"first": 1, "stuck": 1, "broken": 1, "last": 1},
  )
  assert time.monotonic() - start < 14
  outcomes = {it.suite: it.outcome for it in found}
  assert outcomes == {
    "first": "complete",
    "stuck": "stopped",
    "broken": "failed",
    "last": "complete",
  }
  # What a part leaves over is shared out among those that follow.
  assert found[0].limit_seconds == pytest.approx(3, abs=0.1)
  assert found[3].limit_seconds > found[1].limit_seconds > 3
  assert {it.name for it in (tmp_path / "new").iterdir()} == {
    *("first.json", "stuck.json", "last.json", "parts.json")
  }
  said = json.loads((tmp_path / "new" / "parts.json").read_text())["parts"]
  assert said == [it._asdict() for it in found]
  assert capfd.readouterr().out.count("rows") == 3
  with pytest.raises(ValueError, match=r"^broken failed.*--suite=broken"):
    parts.check_parts(found)
  with pytest.raises(ValueError, match=r"^stuck did not end.*--minutes"):
    parts.check_parts(found[:2])
  parts.check_parts(found[:1])


def test_every_suite_is_a_part():
  assert {*parts.SHARES} == {*suites.SUITES}
  assert list(parts.SHARES)[-1] == "generate"  # compiles longest for a row


@pytest.mark.slow
def test_all_suites_as_users_start_them(tmp_path):
  finished = subprocess.run(
    [
      *(sys.executable, "-m", "launch.benchmark", "--suite=all", "--size=tiny"),
      *("--seconds=0.01", "--minutes=20", f"--output={tmp_path / 'all'}"),
    ],
    capture_output=True,
    text=True,
    check=False,
  )
  assert (finished.returncode, finished.stderr) == (0, "")
  assert finished.stdout.count("complete after") == len(parts.SHARES)
  for name in parts.SHARES:
    result = json.loads((tmp_path / "all" / f"{name}.json").read_text())
    assert result["suite"] == name and result["is_complete"]
    assert "cpu" in result["device"] and result["rows"]


def test_impossible_settings_are_refused(tmp_path):
  with pytest.raises(ValueError, match="minutes is 0"):
    parts.run_parts(_command({}), minutes=0)
  (tmp_path / "file").touch()
  with pytest.raises(OSError, match=r"--output=.*/file/x cannot be made"):
    parts.run_parts(
      _command({}), minutes=1, directory=str(tmp_path / "file" / "x")
    )
