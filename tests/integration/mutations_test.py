"""Nothing that is slightly wrong ends in a traceback."""

import dataclasses
import gzip
import json
import random
from collections.abc import Sequence

import pytest

from tests.integration import mutations, runs

_NUM_SEEDS = 300
_NUM_QUICK = 60
_MEMORY = 12 << 30  # bytes of address space


@dataclasses.dataclass(frozen=True)
class Base:
  """A command line that works, and the files that it reads."""

  command: Sequence[str]
  needs: Sequence[str]
  files: Sequence[str]  # globs of what may be changed


def _generate(*arguments):
  return [
    "generate",
    "--checkpoint=calm",
    "--num_tokens=4",
    "--num_candidates=4",
    "--temperature=0.5",
    "--seed=1",
    *arguments,
  ]


_BASES = (
  Base(
    ["prepare", *runs.prepare_flags("out"), "--bytes", "--shard=0/1"],
    ["train.jsonl", "valid.jsonl"],
    ["train.jsonl", "valid.jsonl"],
  ),
  Base(
    [
      "prepare",
      "--input=a.txt,train.jsonl.gz",
      "--valid_input=valid.jsonl",
      "--output=out",
      "--vocab_size=300",
    ],
    ["train.jsonl", "valid.jsonl"],
    ["a.txt", "train.jsonl.gz"],
  ),
  Base(
    ["prepare", *runs.prepare_flags("out"), "--tokenizer=words"],
    ["train.jsonl", "valid.jsonl", "words"],
    ["words/tokenizer/*"],
  ),
  Base(
    ["train", *runs.train_flags("autoencoder"), "--workdir=autoencoder"],
    ["data", "autoencoder"],
    ["autoencoder/*.json*", "autoencoder/steps/6/**/*", "data/**/*"],
  ),
  Base(
    ["train", *runs.train_flags("calm"), "--workdir=calm"],
    ["data", "autoencoder", "calm"],
    ["calm/*.json*", "calm/autoencoder/**/*", "calm/tokenizer/*"],
  ),
  Base(
    [
      "evaluate",
      "--checkpoint=autoencoder",
      "--data=data",
      "--split=valid",
      "--num_rows=4",
      "--batch_size=4",
      "--row_length=32",
      "--output=result.json",
      "--seed=1",
    ],
    ["data", "autoencoder"],
    ["autoencoder/config.json", "autoencoder/steps/6/p*/**/*", "data/**/*"],
  ),
  Base(
    [
      "evaluate",
      "--checkpoint=calm",
      "--data=valid.jsonl",
      "--num_rows=4",
      "--batch_size=4",
      "--num_samples=2",
      "--positions=grid:8",
    ],
    ["valid.jsonl", "calm"],
    ["valid.jsonl", "calm/config.json", "calm/steps/6/position/*"],
  ),
  Base(
    _generate("--prompt=Document", "--step=6"),
    ["calm"],
    ["calm/config.json", "calm/tokenizer/*", "calm/**/*"],
  ),
  Base(
    _generate("--prompts_file=a.txt", "--method=exact", "--when_spent=batch"),
    ["calm"],
    ["a.txt", "calm/config.json"],
  ),
  Base(
    ["convert", "--source=published", "--target=out"],
    ["published"],
    ["published/*.json", "published/*.safetensors"],
  ),
  Base(
    ["convert", "--source=calm", "--target=out", "--reverse", "--step=6"],
    ["calm"],
    ["calm/config.json", "calm/autoencoder/**/*", "calm/steps/6/**/*"],
  ),
)


def make_case(seed, directory, workspace):
  """Writes the files of a case and returns its command line."""
  rng = random.Random(seed)
  base = _BASES[seed % len(_BASES)]
  workspace.copy(directory, *base.needs)
  (directory / "a.txt").write_text("Document 1\nDocument 2 counts\n")
  if "train.jsonl" in base.needs:
    text = (directory / "train.jsonl").read_bytes()
    (directory / "train.jsonl.gz").write_bytes(gzip.compress(text, mtime=0))
  name, *arguments = base.command
  for _ in range(rng.choice((1, 1, 2))):
    if rng.random() < 0.6:
      arguments = mutations.mutate_arguments(arguments, rng)
    else:
      pattern = rng.choice(base.files)
      files = [file for file in directory.glob(pattern) if file.is_file()]
      file = rng.choice(sorted(files))
      file.write_bytes(mutations.mutate_bytes(file.read_bytes(), rng))
  return name, arguments


@pytest.mark.parametrize(
  "seed",
  [
    pytest.param(seed, marks=[pytest.mark.slow] * (seed >= _NUM_QUICK))
    for seed in range(_NUM_SEEDS)
  ],
)
def test_a_change_is_survived_or_explained(seed, tmp_path, binaries, workspace):
  name, arguments = make_case(seed, tmp_path, workspace)
  finished = binaries(name, *arguments, directory=tmp_path, memory=_MEMORY)
  shown = json.dumps([name, *arguments]) + "\n" + finished.stderr
  assert finished.code in (0, 1), shown
  assert "Traceback" not in finished.stderr, shown
  if finished.code:
    lines = runs.terminal_lines(finished.stderr)
    assert lines[-1].startswith("error: ") and len(lines) <= 3, shown
