"""The commands of docs/, run as printed in the order of a newcomer's path.

Text is made up here, and numbers of steps, rows and draws are small: what a
page leaves out, a flag behind its command gives. The head, the score and the
metric of docs/adding.md are added to a copy of the code and trained with.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

from tests.quick_compiling import UNOPTIMIZED

pytestmark = pytest.mark.processes

_ROOT = pathlib.Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
# What makes a command of each binary small; the last value of a flag counts.
_SMALL = {
  "train": "--config.num_steps=4 --config.save_interval=2"
  " --config.eval_interval=4 --config.num_eval_rows=2"
  " --config.num_scored_rows=2 --config.data.batch_size=1"
  " --config.data.row_length=256 --config.optimizer.num_warmup_steps=1",
  "evaluate": "--num_rows=8 --num_samples=2 --row_length=128",
  "ngram": "--num_rows=8 --num_samples=2 --row_length=128",
  "generate": "--num_tokens=8 --num_candidates=8 --max_draws=64",
  "explore": "--num_rows=2 --num_samples=2 --candidate_counts=4",
  "sweep": "--num_rows=8 --num_samples=2",
  "choose": "--num_items=4 --num_context_chunks=4 --num_samples=2",
}


def _blocks(page, language="bash"):
  """Blocks of a page: those to run by name, of other languages in order."""
  text = (_DOCS / page).read_text()
  if language == "bash":
    found = re.findall(r"<!-- run: (\w+) -->\n```bash\n(.*?)```", text, re.S)
    return dict(found)
  return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def _small(block):
  """Flags behind the commands, few pieces, and less time before a kill."""
  block = block.replace("\\\n", " ").replace("KILL 60", "KILL 25")
  block = block.replace("--vocab_size=8000", "--vocab_size=300")
  lines = []
  for line in block.splitlines():
    found = re.search(r"python -m launch\.(\w+)", line)
    if found and found[1] in _SMALL and "--print_config" not in line:
      end = " || true" if line.endswith("|| true") else ""
      line = f"{line.removesuffix(end)} {_SMALL[found[1]]}{end}"
    lines.append(line)
  return "\n".join(lines)


class _Place:
  """A checkout with text in it, where commands are run."""

  def __init__(self, path):
    self.path = path
    for name in ("calm_jax", "experiments", "launch", "benchmarks"):
      (path / name).symlink_to(_ROOT / name)
    (path / "books").mkdir()
    pieces = [f"It was the {i % 97}th of {i % 13} days, " for i in range(4000)]
    texts = ["".join(pieces[i : i + 40]) for i in range(0, 4000, 40)]
    for name, part in (
      ("books/a.jsonl", texts),
      ("held_out.jsonl", texts[:20]),
    ):
      lines = [json.dumps({"text": f"{name} {text}"}) for text in part]
      (path / name).write_text("\n".join(lines))

  def run(self, block):
    finished = subprocess.run(
      ["bash", "-euo", "pipefail", "-c", _small(block)],
      cwd=self.path,
      env=os.environ
      | {
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": UNOPTIMIZED,
        "JAX_COMPILATION_CACHE_DIR": str(self.path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
      },
      capture_output=True,
      text=True,
      check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished

  def change(self, *names):
    """From here on these folders are copies, which may be changed."""
    for name in names:
      (self.path / name).unlink()
      shutil.copytree(_ROOT / name, self.path / name)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """What docs/own_text.md leads to: text, an autoencoder and a CALM."""
  place = _Place(tmp_path_factory.mktemp("walk"))
  finished = place.run(_blocks("own_text.md")["own_text"])
  assert "token_accuracy" in finished.stdout and "brier_1" in finished.stdout
  assert (place.path / "calm.json").exists()
  return place


def test_a_killed_run_goes_on(place):
  place.run(_blocks("training.md")["resume"])
  steps = place.path / "runs/resumed/steps"
  assert {path.name for path in steps.iterdir()} >= {"4"}


def test_the_config_is_printed(place):
  finished = place.run(_blocks("training.md")["print_config"])
  assert json.loads(finished.stdout)["model"]["kind"] == "next_vector"


def test_evaluation(place):
  blocks = _blocks("evaluation.md")
  for name in ("evaluation", "ngram", "follow", "report"):
    place.run(blocks[name])
  scores = json.loads((place.path / "calm.json").read_text())
  assert {"brier_1_minus_permuted", "brier_1_last_chunk"} <= scores.keys()
  rows = (place.path / "scores.jsonl").read_text().splitlines()
  assert [json.loads(row)["step"] for row in rows] == [2, 4]
  assert (place.path / "calm.html").exists()


def test_temperature(place):
  pytest.importorskip("matplotlib")
  for block in _blocks("temperature.md").values():
    place.run(block)
  assert (place.path / "explore.png").exists()


def test_choices(place):
  place.run(_blocks("choose.md")["cloze"])
  assert len((place.path / "cloze.jsonl").read_text().splitlines()) == 4
  result = json.loads((place.path / "cloze.json").read_text())
  assert 0 <= result["accuracy"] <= 1 and "accuracy_mutual" in result


def test_drafts(place):
  finished = place.run(_blocks("drafting.md")["drafting"])
  assert "without drafts" in finished.stderr


def test_training_on_pairs(place):
  pairs = [
    {"prompt": f"{i} + 1 = ", "completion": str(i + 1)} for i in range(400)
  ]
  (place.path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
  place.run(_blocks("drafting.md")["pairs"])
  assert (place.path / "runs/calm-pairs/steps/4").exists()


def test_a_change_is_allowed_and_kept(place):
  place.run(_blocks("training.md")["allow_change"])
  saved = json.loads((place.path / "runs/calm/config.json").read_text())
  assert "optimizer.learning_rate" in json.dumps(saved["history"])


def test_a_sweep_of_four_points(place):
  code = _blocks("scaling.md", "python")[0]
  assert code.startswith("# my_sweep.py\n")
  code = re.sub(r"num_steps=\d+", "num_steps=4", code)
  for rows in ("autoencoder", "calm"):
    code = code.replace(
      f'{rows}.get_config("tiny")', f'_short({rows}.get_config("tiny"))'
    )
  (place.path / "my_sweep.py").write_text(
    code
    + """

def _short(config):
  data = dataclasses.replace(config.data, row_length=256, batch_size=1)
  rate = dataclasses.replace(config.optimizer, num_warmup_steps=1)
  return dataclasses.replace(
    config, data=data, optimizer=rate, eval_interval=0, num_scored_rows=0
  )
"""
  )
  blocks = _blocks("scaling.md")
  jobs = place.run(blocks["sweep_jobs"]).stdout
  assert "--array=0" in jobs and "--array=1,2,3" in jobs
  finished = place.run(blocks["sweep"])
  assert "3 points" in finished.stdout
  assert (place.path / "runs/my_sweep/report.html").exists()


def test_pod_scripts(place):
  finished = place.run(_blocks("pod.md")["dry_run"])
  for tool in ("gcloud", "gcluster job submit", "sbatch"):
    assert tool in finished.stdout


def test_a_source_mixture_is_read(place):
  code = _blocks("own_text.md", "python")[0]
  (place.path / "mixed.py").write_text(code)
  finished = place.run(
    "python -m launch.train --config=mixed.py --print_config"
  )
  sources = json.loads(finished.stdout)["data"]["sources"]
  assert [source["weight"] for source in sources] == [3.0, 1.0]


def test_parts_are_added_as_the_page_says(place):
  """Last, because it changes the code of the place."""
  place.change("calm_jax", "experiments")
  for code in _blocks("adding.md", "python"):
    path = re.match(r"# (\S+\.py)\n", code)[1]
    (place.path / path).write_text(code)
  for patch in _blocks("adding.md", "diff"):
    finished = subprocess.run(
      ["git", "apply", "-"],
      cwd=place.path,
      input=patch,
      capture_output=True,
      text=True,
      check=False,
      env=os.environ | {"GIT_CEILING_DIRECTORIES": str(place.path.parent)},
    )
    assert finished.returncode == 0, finished.stderr
  blocks = _blocks("adding.md")
  finished = place.run(blocks["head"])
  assert "sample_spread" in finished.stdout
  rows = (place.path / "runs/gaussian/metrics.jsonl").read_text()
  assert "gaussian_std" in rows
  place.run(blocks["score"])
