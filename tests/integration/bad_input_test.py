"""Every mistake ends in at most three lines that say what to do, and exit 1."""

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from tests.integration import damage, runs

# A traceback, a line of absl's or XLA's log, a warning of Python.
_NOISE = re.compile(r"Traceback|^[IWEF]\d{4} |\w+Warning:", re.MULTILINE)

_BINARIES = sorted(
  path.stem
  for path in (runs.ROOT / "launch").glob("*.py")
  if "entry.run(main)" in path.read_text()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """A command line that cannot work."""

  name: str
  command: Sequence[str]  # binary and arguments
  needs: Sequence[str] = ()  # of the workspace, copied
  before: Callable | None = None  # called with the directory
  words: Sequence[str]  # that the message holds
  file_size: int | None = None  # bytes a file may have
  leaves: Sequence[str] = ()  # what may be there afterwards


def _prepare(name, *arguments, words, **others):
  flags = [*runs.prepare_flags("out"), "--bytes"]
  return Case(
    name=f"prepare-{name}",
    command=["prepare", *flags, *arguments],
    needs=["train.jsonl", "valid.jsonl"],
    words=words,
    **others,
  )


def _train(name, *arguments, words, needs=("data",), stage="autoencoder", **kw):
  flags = [*runs.train_flags(stage), "--workdir=run"]
  return Case(
    name=f"train-{name}",
    command=["train", *flags, *arguments],
    needs=needs,
    words=words,
    **kw,
  )


def _config(name, config, *arguments, words, **others):
  return Case(
    name=f"train-config-{name}",
    command=["train", f"--config={config}", "--workdir=run", *arguments],
    words=words,
    **others,
  )


def _calm(name, *arguments, words, needs=("data", "autoencoder"), **others):
  return _train(
    name, *arguments, words=words, needs=needs, stage="calm", **others
  )


def _evaluate(name, *arguments, words, needs=("calm", "data"), **others):
  return Case(
    name=f"evaluate-{name}",
    command=["evaluate", "--checkpoint=calm", "--data=data", *arguments],
    needs=needs,
    words=words,
    **others,
  )


def _generate(name, *arguments, words, needs=("calm",), **others):
  return Case(
    name=f"generate-{name}",
    command=["generate", "--checkpoint=calm", *arguments],
    needs=needs,
    words=words,
    **others,
  )


def _choose(name, *arguments, words, task=None, needs=("calm",)):
  """With a file of one question, or of the lines given."""
  task = task or '{"context": "a", "choices": [" b", " c"], "answer": 0}'
  return Case(
    name=f"choose-{name}",
    command=["choose", "--checkpoint=calm", *arguments],
    needs=needs,
    before=damage.write("task.jsonl", task + "\n"),
    words=words,
  )


def _convert(name, *arguments, words, needs=("published",), **others):
  return Case(
    name=f"convert-{name}",
    command=["convert", "--source=published", "--target=out", *arguments],
    needs=needs,
    words=words,
    **others,
  )


def _ngram(name, *arguments, words):
  return Case(
    name=f"ngram-{name}",
    command=["ngram", "--data=data", *arguments],
    needs=["data"],
    words=words,
  )


_PREPARE = [
  _prepare("missing", "--input=none.txt", words=["'none.txt'", "check"]),
  _prepare(
    "no-match", "--input=no*.txt", words=["'no*.txt'", "check the path"]
  ),
  _prepare(
    "empty",
    "--input=empty.txt",
    before=damage.write("empty.txt", ""),
    words=["no text", "1 documents", "give files with text"],
  ),
  _prepare(
    "empty-lines",
    "--input=empty.jsonl",
    before=damage.write("empty.jsonl", "\n\n"),
    words=["no text", "0 documents", "give files with text"],
  ),
  _prepare(
    "empty-valid",
    "--valid_input=empty.txt",
    before=damage.write("empty.txt", ""),
    words=["validation input has no text"],
  ),
  _prepare(
    "not-utf8",
    "--input=latin.txt",
    before=damage.write("latin.txt", b"first\ncaf\xe9\n"),
    words=["latin.txt, line 2", "0xE9", "offset 9", "iconv"],
  ),
  _prepare(
    "no-text",
    "--input=a.jsonl",
    before=damage.write("a.jsonl", '{"text": "a"}\n{"body": "b"}\n'),
    words=["a.jsonl, line 2", "'text'", "'body'", "rename"],
  ),
  _prepare(
    "not-json",
    "--input=a.jsonl",
    before=damage.write("a.jsonl", '{"text": "a"}\n{"text": \n'),
    words=["a.jsonl, line 2", "not JSON"],
  ),
  _prepare(
    "long-number",
    "--input=a.jsonl",
    before=damage.write("a.jsonl", f'{{"text": "a", "n": {"9" * 5000}}}\n'),
    words=["a.jsonl, line 1", "more than 4300 digits"],
  ),
  _prepare(
    "gzip",
    "--input=a.jsonl.gz",
    before=damage.truncated_gzip("a.jsonl.gz"),
    words=["a.jsonl.gz, line", "cut short", "copy the file again"],
  ),
  _prepare(
    "parquet",
    "--input=a.parquet",
    before=damage.write("a.parquet", b"PAR1 not really PAR1"),
    words=["a.parquet", "not a readable Parquet file"],
  ),
  _prepare(
    "kind",
    "--input=a.pdf",
    before=damage.write("a.pdf", "x"),
    words=["a.pdf", ".jsonl"],
  ),
  _prepare(
    "directory",
    "--input=dir",
    before=damage.write("dir/a.txt", "x"),
    words=["dir is a directory", "dir/*.jsonl"],
  ),
  _prepare("tfds", "--input=tfds:no_such_data", words=["no_such_data"]),
  *(
    _prepare(
      f"tfds-cut-{name}",
      "--input=tfds:set",
      *flags,
      before=damage.cut_tfds("set"),
      words=["tfds:set, example 2: ", "array_record-00001 is damaged or cut"],
    )
    for name, flags in {
      "bytes": [],
      "pieces": ["--nobytes", "--vocab_size=300"],
    }.items()
  ),
  _prepare(
    "few-pieces",
    "--nobytes",
    "--vocab_size=10",
    words=["vocab_size 10", "at least"],
  ),
  _prepare(
    "many-pieces",
    "--nobytes",
    "--vocab_size=100000",
    words=["100000", "vocab_size"],
  ),
  _prepare("negative", "--nobytes", "--vocab_size=-5", words=["-5"]),
  _prepare(
    "both", "--vocab_size=300", words=["vocab", "--tokenizer", "--bytes"]
  ),
  _prepare(
    "tokenizer-missing",
    "--nobytes",
    "--tokenizer=none.model",
    words=["no tokenizer at none.model", "give"],
  ),
  _prepare(
    "tokenizer-damaged",
    "--nobytes",
    "--tokenizer=bad.model",
    before=damage.write("bad.model", b"\n\x05abcdefghijk"),
    words=["bad.model"],
  ),
  _prepare(
    "tokenizer-text",
    "--nobytes",
    "--tokenizer=bad.model",
    before=damage.write("bad.model", "hello"),
    words=["bad.model"],
  ),
  _prepare("shard", "--shard=2", words=["--shard=2", "i/n"]),
  _prepare("shard-of", "--shard=3/2", words=["3", "2"]),
  _prepare("shard-zero", "--shard=0/0", words=["0"]),
  _prepare(
    "occupied",
    before=damage.write("out/letter.txt", "mine"),
    words=["out", "not empty", "new directory"],
  ),
  _prepare(
    "file",
    "--output=train.jsonl",
    words=["train.jsonl is a file", "give a directory"],
  ),
  _prepare(
    "unwritable",
    "--output=train.jsonl/out",
    words=["train.jsonl/out", "another"],
  ),
  _prepare(
    "proc", "--output=/proc/out", words=["/proc/out", "another --output"]
  ),
  _prepare("full-disk", file_size=1000, words=["cannot be written"]),
  _prepare(
    "full-disk-early",
    "--nobytes",
    "--vocab_size=300",
    file_size=1000,
    words=["File too large"],
  ),
  _prepare("typo", "--ouput=x", words=["ouput", "output?", "--help"]),
  _prepare("type", "--vocab_size=many", words=["vocab_size", "many"]),
  _prepare("word", "bytes", words=["unexpected argument 'bytes'", "--help"]),
  Case(
    name="prepare-nothing", command=["prepare"], words=["--output", "missing"]
  ),
]

_TRAIN = [
  _train(
    "data-missing",
    "--config.data.path=none",
    words=["no prepared data at none", "launch.prepare"],
  ),
  _train(
    "cache",
    "--compilation_cache=data/info.json",
    words=["--compilation_cache=data/info.json", "give a directory"],
  ),
  _train("no-data", "--config.data.path=", words=["data.path", "prepare"]),
  _train(
    "processes",
    "--num_processes=2",
    words=["several processes", "--coordinator_address", "--process_id"],
  ),
  _train(
    "process-id",
    "--coordinator_address=localhost:1",
    "--num_processes=2",
    "--process_id=2",
    words=["process_id is 2 of 2", "0 to 1"],
  ),
  _train(
    "data-unfinished",
    before=damage.remove("data/info.json"),
    words=["data", "info.json", "launch.prepare"],
  ),
  _train(
    "data-damaged",
    before=damage.cut_largest("data/tokens/*array_record*"),
    words=["data/tokens", "damaged", "prepare the data again"],
    leaves=["run"],
  ),
  _train(
    "data-text",
    "--config.data.path=train.jsonl",
    needs=["train.jsonl"],
    words=["train.jsonl"],
  ),
  _train(
    "row-length",
    "--config.data.row_length=30",
    words=["row length 30", "chunk_size 4", "28 and 32"],
  ),
  _train(
    "row-length-0", "--config.data.row_length=0", words=["row_length is 0"]
  ),
  _train("steps", "--config.num_steps=-1", words=["num_steps is -1"]),
  _train(
    "microbatches",
    "--config.num_microbatches=3",
    words=["batch_size 2", "num_microbatches 3"],
  ),
  _train(
    "field",
    "--config.model.hiden_size=8",
    words=["hiden_size", "hidden_size"],
  ),
  _train("group", "--config.modle.hidden_size=8", words=["modle", "model"]),
  _train("type", "--config.num_steps=ten", words=["num_steps", "ten"]),
  _train("fraction", "--config.num_steps=1.5", words=["num_steps", "1.5"]),
  _train(
    "rate", "--config.optimizer.learning_rate=x", words=["learning_rate", "x"]
  ),
  _train(
    "bool",
    "--config.data.use_random_fill=maybe",
    words=["use_random_fill", "maybe"],
  ),
  _train(
    "choice",
    "--config.model.dtype=float8",
    words=["dtype is 'float8'", "float32, bfloat16"],
  ),
  _train("group-value", "--config.model=autoencoder", words=["model"]),
  _train(
    "sources", "--config.data.sources=data", words=["sources", "is no flag"]
  ),
  _train(
    "source", "--config.data.sources.path=data", words=["sources", "is no flag"]
  ),
  _train(
    "vocabulary", "--config.model.vocabulary=3", words=["comes from the data"]
  ),
  _train(
    "autoencoder-of-autoencoder",
    "--config.autoencoder_run=x",
    needs=["data"],
    words=["autoencoder_run is x", "no use for one"],
  ),
  Case(
    name="train-field-without-config",
    command=["train", "--config.data.path=data", "--workdir=run"],
    words=["--config is missing"],
  ),
  Case(
    name="train-field-before-config",
    command=[
      *("train", "--config.data.path=data", "--workdir=run"),
      f"--config={runs.ROOT}/experiments/autoencoder.py:tiny",
    ],
    words=["give --config before"],
  ),
  Case(
    name="quickstart-infinite",
    command=["quickstart", "--workdir=run", "--scale=inf"],
    words=["scale is inf"],
  ),
  _train("mesh", "--config.mesh.fsdp=3", words=["3", "mesh", "device"]),
  _train(
    "warmup",
    "--config.optimizer.num_warmup_steps=9",
    words=["num_warmup_steps is 9", "num_steps 6"],
  ),
  _config(
    "several-kinds",
    f"{runs.ROOT}/experiments/calm.py:tiny",
    "--config.model.head=flow",
    words=["several kinds", "experiments/calm.py:tiny,head=flow"],
  ),
  _train(
    "filled-from-data",
    "--config.model.vocabulary.size=10",
    words=["--config.model.vocabulary.size cannot be set", "leave"],
  ),
  _train(
    "initial-run",
    "--initial_run=none",
    words=["no directory", "none"],
  ),
  _config(
    "continued",
    f"{runs.ROOT}/experiments/continued.py:none",
    words=["none is not a run directory", "config.json"],
  ),
  _config(
    "unreadable",
    "bad.py",
    before=damage.write("bad.py", "get_config = lambda: open('none.txt')\n"),
    words=["No such file", "none.txt"],
  ),
  _config(
    "argument",
    f"{runs.ROOT}/experiments/autoencoder.py:huge",
    words=["'huge'", "tiny, k1"],
  ),
  _config("missing", "none.py", words=["none.py"]),
  _config(
    "syntax",
    "bad.py",
    before=damage.write("bad.py", "def get_config(:\n"),
    words=["bad.py", "SyntaxError", "line 1"],
  ),
  _config(
    "raises",
    "bad.py",
    before=damage.write("bad.py", "import none_such\n"),
    words=["bad.py", "No module named 'none_such'"],
  ),
  _config(
    "empty",
    "bad.py",
    before=damage.write("bad.py", "x = 1\n"),
    words=["bad.py", "get_config"],
  ),
  _config(
    "kind",
    "bad.py",
    before=damage.write("bad.py", "def get_config():\n  return 3\n"),
    words=["int", "get_config()", "ExperimentConfig"],
  ),
  _config(
    "kind-field",
    "bad.py",
    "--config.num_steps=3",
    before=damage.write("bad.py", "def get_config():\n  return 3\n"),
    words=["int", "get_config()", "ExperimentConfig"],
  ),
  _train("typo", "--work_dir=x", words=["work_dir", "workdir?", "--help"]),
  Case(name="train-nothing", command=["train"], words=["--config", "missing"]),
  Case(
    name="train-empty-workdir",
    command=["train", "--config=experiments/autoencoder.py:tiny", "--workdir="],
    words=["--workdir is empty"],
  ),
  Case(
    name="quickstart-empty-workdir",
    command=["quickstart", "--workdir="],
    words=["--workdir is empty"],
  ),
  _train(
    "many-steps",
    "--config.num_steps=10000000000",
    needs=["data"],
    words=["num_steps is 10000000000", "2147483647"],
  ),
  Case(
    name="train-no-workdir",
    command=["train", *runs.train_flags("autoencoder")],
    needs=["data"],
    words=["--workdir"],
  ),
  _train(
    "unwritable",
    "--workdir=train.jsonl/run",
    needs=["data", "train.jsonl"],
    words=["train.jsonl/run", "another directory"],
  ),
  _train(
    "proc", "--workdir=/proc/run", words=["/proc/run", "another directory"]
  ),
  _train(
    "file",
    "--workdir=train.jsonl",
    needs=["data", "train.jsonl"],
    words=["train.jsonl", "--workdir"],
  ),
  _train(
    "full-disk-at-start",
    file_size=100,
    words=["cannot write the run directory", "File too large"],
    leaves=["run"],
  ),
  _train(
    "full-disk-at-save",
    file_size=9_000,
    words=["cannot save a checkpoint"],
    leaves=["run"],
  ),
  _train(
    "other-config",
    "--workdir=autoencoder",
    "--config.model.hidden_size=32",
    "--config.seed=5",
    needs=["data", "autoencoder"],
    words=[
      "model.hidden_size (there 16, now 32)",
      "seed (there 0, now 5)",
      "another --workdir",
    ],
  ),
  _train(
    "other-model",
    "--workdir=calm",
    needs=["data", "calm"],
    words=["model (there 'next_vector', now 'autoencoder')"],
  ),
  _train(
    "other-tokenizer",
    "--workdir=autoencoder",
    "--config.data.path=words",
    needs=["words", "autoencoder"],
    words=["vocabulary.size (there 258, now 300)"],
  ),
  _train(
    "other-data",
    "--workdir=autoencoder",
    before=damage.replace(
      "data/info.json", '"content_hash": "', '"content_hash": "0'
    ),
    needs=["data", "autoencoder"],
    words=["the data is not the one", "--workdir"],
  ),
  _train(
    "config-damaged",
    "--workdir=autoencoder",
    needs=["data", "autoencoder"],
    before=damage.replace("autoencoder/config.json", "}", ""),
    words=["config.json", "is damaged"],
  ),
  _train(
    "config-other-version",
    "--workdir=autoencoder",
    needs=["data", "autoencoder"],
    before=damage.replace(
      "autoencoder/config.json", '"format_version": 1', '"format_version": 9'
    ),
    words=["config.json", "format_version 9", "reads 1"],
  ),
  _train(
    "all-damaged",
    "--workdir=autoencoder",
    needs=["data", "autoencoder"],
    before=lambda directory: [
      damage.cut_largest(f"autoencoder/steps/{step}/params/**/*")(directory)
      for step in (3, 6)
    ],
    words=["none of the 2 steps", "--workdir"],
  ),
  _calm(
    "no-autoencoder",
    "--config.autoencoder_run=",
    words=["needs a trained autoencoder", "--config.autoencoder_run"],
  ),
  _calm(
    "autoencoder-missing",
    "--config.autoencoder_run=none",
    words=["no directory", "none"],
  ),
  _calm(
    "autoencoder-is-calm",
    "--config.autoencoder_run=calm",
    needs=["data", "calm"],
    words=["next_vector", "give that of an autoencoder"],
  ),
  _calm(
    "autoencoder-K",
    "--config.model.chunk_size=8",
    words=["chunk_size 8", "autoencoder 4"],
  ),
  _calm(
    "autoencoder-Z",
    "--config.model.latent_size=9",
    words=["latent_size 9", "autoencoder 8"],
  ),
  _calm(
    "autoencoder-vocabulary",
    "--config.data.path=words",
    needs=["words", "autoencoder"],
    words=["another tokenizer", "--tokenizer=autoencoder/tokenizer"],
  ),
  _calm(
    "autoencoder-hash",
    "--workdir=calm",
    "--config.autoencoder_run=other",
    needs=["data", "calm", "autoencoder"],
    before=lambda directory: (
      damage.remove("autoencoder/steps/6")(directory),
      damage.move("autoencoder", "other")(directory),
    ),
    words=["other is not the one", "--workdir"],
  ),
  _calm(
    "autoencoder-unsaved",
    before=damage.remove("autoencoder/steps"),
    words=["autoencoder has no checkpoint"],
  ),
  _calm(
    "autoencoder-damaged",
    before=damage.cut_largest("autoencoder/steps/6/params/**/*"),
    words=["step 6", "damaged"],
  ),
  _calm(
    "frozen-damaged",
    "--workdir=calm",
    needs=["data", "autoencoder", "calm"],
    before=damage.cut_largest("calm/autoencoder/**/*"),
    words=["calm/autoencoder", "cannot be read", "copy"],
  ),
]

_EVALUATE = [
  _evaluate("missing", "--checkpoint=none", words=["no directory", "none"]),
  _evaluate("not-a-run", "--checkpoint=data", words=["not a run directory"]),
  _evaluate(
    "unsaved",
    before=damage.remove("calm/steps"),
    words=["calm has no checkpoint"],
  ),
  _evaluate("step", "--step=4", words=["step 4", "saved are 3, 6"]),
  _evaluate(
    "steps",
    "--steps=3,4",
    "--output=rows.jsonl",
    words=["step 4", "saved are 3, 6"],
  ),
  _evaluate(
    "steps-text",
    "--steps=3,x",
    "--output=rows.jsonl",
    words=["--steps is '3,x'", "whole numbers"],
  ),
  _evaluate(
    "steps-none",
    "--steps=",
    "--output=rows.jsonl",
    words=["--steps is ''", "whole numbers"],
  ),
  _evaluate(
    "wait", "--wait_seconds=3", words=["--wait_seconds", "--follow alone"]
  ),
  _evaluate(
    "wait-nan",
    "--follow",
    "--wait_seconds=nan",
    "--output=rows.jsonl",
    words=["--wait_seconds is nan", "0 or more"],
  ),
  _evaluate(
    "follow-step",
    "--follow",
    "--step=3",
    "--output=rows.jsonl",
    words=["--step is one step", "leave it out"],
  ),
  _evaluate("follow", "--follow", words=["--output", "one line a step"]),
  _evaluate(
    "follow-output",
    "--follow",
    "--output=rows.jsonl",
    before=damage.write("rows.jsonl", '{"loss": 1}\n'),
    words=["rows.jsonl", "does not hold results by step"],
  ),
  _evaluate(
    "damaged",
    before=damage.cut_largest("calm/steps/6/params/**/*"),
    words=["step 6", "damaged", "--step=3"],
  ),
  _evaluate(
    "position",
    before=damage.write("calm/steps/6/position/metadata", "{"),
    words=["step 6", "position", "--step=3"],
  ),
  _evaluate(
    "tokenizer-gone",
    before=damage.remove("calm/tokenizer"),
    words=["no tokenizer at", "calm/tokenizer"],
  ),
  _evaluate(
    "tokenizer-other",
    needs=["calm", "data", "words"],
    before=lambda directory: (
      damage.remove("calm/tokenizer")(directory),
      damage.move("words/tokenizer", "calm/tokenizer")(directory),
    ),
    words=["calm/tokenizer is not what the run was trained with"],
  ),
  _evaluate(
    "data-other-tokenizer",
    "--data=words",
    needs=["calm", "words"],
    words=["words was prepared with another tokenizer", "--tokenizer"],
  ),
  _evaluate("data-missing", "--data=none", words=["'none'", "check the path"]),
  _evaluate(
    "data-empty",
    "--data=empty.txt",
    before=damage.write("empty.txt", ""),
    words=["empty.txt has no text", "give documents"],
  ),
  _evaluate("data-directory", "--data=calm", words=["no prepared data"]),
  _evaluate("data-name", "--data=", words=["no input was given"]),
  _evaluate("split", "--split=test", words=["'test'", "train and valid"]),
  _evaluate("positions", "--positions=all", words=["'all'", "grid:8"]),
  _evaluate("grid", "--positions=grid:6", words=["grid:6", "grid:8"]),
  _evaluate("grid-0", "--positions=grid:0", words=["grid:0", "grid:8"]),
  _evaluate("samples", "--num_samples=1", words=["num_samples", "1"]),
  _evaluate(
    "row-length", "--row_length=30", words=["row length 30", "28 and 32"]
  ),
  _evaluate("row-length-0", "--row_length=0", words=["row_length", "0"]),
  _evaluate("row-length-big", "--row_length=64", words=["64", "32"]),
  _evaluate("batch", "--batch_size=0", words=["batch_size is 0"]),
  _evaluate("batch-negative", "--batch_size=-2", words=["batch_size is -2"]),
  _evaluate("rows", "--num_rows=0", words=["num_rows is 0"]),
  _evaluate("rows-negative", "--num_rows=-3", words=["num_rows is -3"]),
  _evaluate("seed", "--seed=99999999999999", words=["seed", "99999999999999"]),
  _evaluate("noise", "--noise_scale=-1", words=["noise_scale", "-1"]),
  _evaluate("noise-nan", "--noise_scale=nan", words=["noise_scale", "nan"]),
  _evaluate(
    "output-directory", "--output=none/x.json", words=["none/x.json", "give"]
  ),
  _evaluate("output-is-directory", "--output=calm", words=["--output=calm"]),
  _evaluate(
    "output-proc", "--output=/proc/x.json", words=["/proc/x.json", "elsewhere"]
  ),
  _evaluate("typo", "--checkpiont=calm", words=["checkpiont", "checkpoint"]),
  _evaluate("type", "--num_rows=all", words=["num_rows", "all"]),
  Case(
    name="evaluate-nothing",
    command=["evaluate"],
    words=["--checkpoint", "missing"],
  ),
]

_GENERATE = [
  _generate(
    "context",
    "--prompt=abc",
    "--num_tokens=32",
    words=["4 tokens", "32 new ones", "context of 32", "at most 28"],
  ),
  _generate(
    "prompt",
    f"--prompt={'a' * 40}",
    "--num_tokens=4",
    words=["44 tokens", "context of 32", "shorten the prompt"],
  ),
  _generate("cold", "--temperature=0", words=["temperature is 0", "<= 1"]),
  _generate("negative", "--temperature=-1", words=["temperature is -1"]),
  _generate("hot", "--temperature=1.5", words=["temperature is 1.5", "<= 1"]),
  _generate("nan", "--temperature=nan", words=["temperature is nan"]),
  _generate("candidates", "--num_candidates=0", words=["0", "candidates"]),
  _generate("few", "--num_candidates=1", words=["1", "candidates"]),
  _generate(
    "draws",
    "--method=exact",
    "--max_draws=0",
    words=["max_draws is 0"],
  ),
  _generate("method", "--method=best", words=["'best'", "batch, exact"]),
  _generate("spent", "--when_spent=x", words=["'x'", "stop, batch"]),
  _generate("no-mesh", "--mesh.fsdp=0", words=["fsdp", "0"]),
  _generate("mesh", "--mesh.fsdp=3", words=["3", "devices"]),
  _generate("sequence", "--mesh.sequence=2", words=["mesh.sequence is 2"]),
  _generate("tokens", "--num_tokens=0", words=["num_tokens is 0"]),
  _generate("samples", "--num_samples=0", words=["num_samples 0"]),
  _generate("top-k", "--top_k=3", words=["top_k", "temperature"]),
  _generate(
    "seed",
    "--num_tokens=4",
    "--seed=99999999999999",
    words=["seed", "99999999999999"],
  ),
  _generate(
    "noise", "--num_tokens=4", "--noise_scale=-1", words=["noise_scale is -1"]
  ),
  _generate(
    "noise-nan",
    "--num_tokens=4",
    "--noise_scale=nan",
    words=["noise_scale is nan"],
  ),
  _generate(
    "autoencoder",
    "--checkpoint=autoencoder",
    needs=["autoencoder"],
    words=["holds an autoencoder", "next-vector or token model"],
  ),
  _generate("prompts-missing", "--prompts_file=none.txt", words=["none.txt"]),
  _generate(
    "prompts-empty",
    "--prompts_file=a.txt",
    before=damage.write("a.txt", ""),
    words=["a.txt holds no prompt"],
  ),
  _generate(
    "prompts-latin",
    "--prompts_file=a.txt",
    before=damage.write("a.txt", b"caf\xe9\n"),
    words=["a.txt, line 1", "0xE9 at offset 3", "not UTF-8", "iconv"],
  ),
  _generate(
    "prompts-both",
    "--prompt=x",
    "--prompts_file=a.txt",
    words=["--prompt or --prompts_file"],
  ),
  _generate(
    "latin",
    b"--prompt=caf\xe9".decode(errors="surrogateescape"),
    words=["U+DCE9", "character 3"],
  ),
  _generate(
    "unsaved",
    before=damage.remove("calm/steps"),
    words=["calm has no checkpoint"],
  ),
  _generate(
    "damaged",
    before=damage.cut_largest("calm/steps/6/params/**/*"),
    words=["step 6", "damaged", "--step=3"],
  ),
  _generate(
    "frozen-damaged",
    before=damage.cut_largest("calm/autoencoder/**/*"),
    words=["calm/autoencoder", "cannot be read", "copy"],
  ),
  _generate("output", "--output=none/x.json", words=["none/x.json"]),
  _generate(
    "full-disk",
    "--num_tokens=4",
    "--output=x.json",
    file_size=100,
    words=["--output=x.json", "File too large", "elsewhere"],
  ),
  _generate(
    "drafted-calm",
    "--drafter=calm",
    words=["calm holds a next_vector model", "verified by a token model"],
  ),
  _generate(
    "no-drafts",
    "--drafter=calm",
    "--num_drafts=0",
    words=["num_drafts is 0", "at least 1"],
  ),
  _generate(
    "drafts-alone", "--num_drafts=8", words=["--num_drafts", "--drafter=RUN"]
  ),
  _generate(
    "drafter-missing", "--drafter=none", words=["no directory", "none"]
  ),
  _generate("typo", "--temprature=1", words=["temprature", "temperature?"]),
  _generate("type", "--num_tokens=many", words=["num_tokens", "many"]),
  Case(
    name="generate-nothing",
    command=["generate"],
    words=["--checkpoint", "missing"],
  ),
]

_CONVERT = [
  _convert("missing", "--source=none", words=["none"]),
  _convert(
    "no-config",
    before=damage.remove("published/config.json"),
    words=["published", "config.json"],
  ),
  _convert(
    "not-json",
    before=damage.write("published/config.json", "{"),
    words=["config.json"],
  ),
  _convert(
    "architecture",
    before=damage.replace(
      "published/config.json",
      '"architectures": [\n    "',
      '"architectures": [\n    "X',
    ),
    words=["config.json"],
  ),
  _convert(
    "no-weights",
    before=damage.remove("published/model.safetensors"),
    words=["published", "safetensors"],
  ),
  _convert(
    "damaged",
    before=damage.cut_largest("published/model.safetensors"),
    words=["model.safetensors"],
  ),
  _convert(
    "occupied",
    before=damage.write("out/letter.txt", "mine"),
    words=["target out", "another --target"],
  ),
  _convert(
    "unwritable",
    "--target=/proc/out",
    words=["target /proc/out", "another --target"],
  ),
  _convert(
    "tokenizer",
    "--tokenizer=words/tokenizer",
    needs=["published", "words"],
    words=["words/tokenizer", "size 300", "258"],
  ),
  _convert(
    "tokenizer-missing", "--tokenizer=none", words=["no tokenizer at none"]
  ),
  _convert("autoencoder", "--autoencoder=none", words=["none", "config.json"]),
  _convert(
    "verify-reverse",
    "--reverse",
    "--verify=x.npz",
    words=["--verify does not go with --reverse"],
  ),
  _convert(
    "reverse-not-a-run",
    "--reverse",
    words=["published", "format_version"],
  ),
  _convert(
    "reverse-missing", "--reverse", "--source=none", words=["no directory"]
  ),
  _convert(
    "reverse-step",
    "--reverse",
    "--source=calm",
    "--step=5",
    needs=["calm"],
    words=["step 5", "saved are 3, 6"],
  ),
  _convert(
    "reverse-damaged",
    "--reverse",
    "--source=calm",
    needs=["calm"],
    before=damage.cut_largest("calm/steps/6/params/**/*"),
    words=["6", "calm"],
  ),
  _convert(
    "full-disk", file_size=9_000, words=["out", "File too large", "another"]
  ),
  _convert(
    "reverse-full-disk",
    "--reverse",
    "--source=calm",
    needs=["calm"],
    file_size=9_000,
    words=["out", "File too large", "another --target"],
  ),
  _convert("typo", "--traget=x", words=["traget", "target?"]),
  Case(
    name="convert-nothing", command=["convert"], words=["--source", "missing"]
  ),
]

_BENCHMARK = [
  Case(name="benchmark-nothing", command=["benchmark"], words=["--suite=NAME"]),
  Case(
    name="benchmark-against",
    command=["benchmark", "--against=data"],
    needs=["data"],
    words=["--against=data holds no models/", "give the root of a checkout"],
  ),
]

_NGRAM = [
  Case(name="ngram-nothing", command=["ngram"], words=["--data", "missing"]),
  Case(
    name="ngram-missing",
    command=["ngram", "--data=none"],
    words=["no prepared data at none", "launch.prepare"],
  ),
  _ngram("context", "--contexts=1,two", words=["'two'", "0,1,2,3"]),
  _ngram("long-context", "--contexts=9", words=["9 tokens", "between 0 and"]),
  _ngram("no-context", "--contexts=", words=["--contexts has ''", "0,1,2,3"]),
  _ngram("chunk-size", "--chunk_size=0", words=["chunk_size is 0", "positive"]),
  _ngram("seed", "--seed=-1", words=["seed is -1", "2**32 - 1"]),
  _ngram(
    "one-sample", "--num_samples=1", words=["num_samples is 1", "at least 2"]
  ),
]

_EXPLORE = [
  Case(
    name="explore-nothing",
    command=["explore"],
    words=["--checkpoint and --data are missing"],
  ),
  Case(
    name="explore-picture",
    command=["explore", "--checkpoint=x", "--data=x", "--output=x.png"],
    words=["x.png", "explore.json"],
  ),
  Case(
    name="explore-temperatures",
    command=["explore", "--checkpoint=x", "--data=x", "--temperatures=1,x"],
    words=["--temperatures=1,x", "numbers"],
  ),
  Case(
    name="explore-kind",
    command=["explore", "--checkpoint=autoencoder", "--data=data"],
    needs=["autoencoder", "data"],
    words=["autoencoder holds", "'autoencoder'", "next-vector run"],
  ),
]

_TASK_FLAG = "--task=task.jsonl"
_CHOOSE = [
  _choose("nothing", words=["--task=FILE", "--make_task=FILE"]),
  _choose("missing", "--task=none.jsonl", words=["none.jsonl"]),
  _choose("form", _TASK_FLAG, task='{"a": 1}', words=["line 1", "known form"]),
  _choose("no-json", _TASK_FLAG, task="oh", words=["line 1", "no JSON object"]),
  _choose(
    "no-answer",
    _TASK_FLAG,
    task='{"context": "a", "choices": [" b", " c"]}',
    words=["line 1", "no 'answer'", "answers are published"],
  ),
  _choose(
    "one-choice",
    _TASK_FLAG,
    task='{"context": "a", "choices": [" b"], "answer": 0}',
    words=["line 1", "two texts or more"],
  ),
  _choose(
    "long-candidate",
    _TASK_FLAG,
    task=json.dumps({"context": "a", "choices": ["b" * 40, "c"], "answer": 0}),
    words=["question 1", "40 tokens", "leaves room for 28"],
  ),
  _choose("samples", _TASK_FLAG, "--num_samples=1", words=["at least 2"]),
  _choose("estimate", _TASK_FLAG, "--estimate=exact", words=["energy, kernel"]),
  _choose("partial", _TASK_FLAG, "--partial=no", words=["marginal, end"]),
  _choose("examples", _TASK_FLAG, "--num_examples=1", words=["0 to 0"]),
  _choose("items", _TASK_FLAG, "--num_items=2", words=["give 1 to 1"]),
  _choose("batch", _TASK_FLAG, "--batch_size=0", words=["at least 1"]),
  _choose("no-data", "--make_task=out.jsonl", words=["--data"]),
  _choose(
    "make-directory",
    "--make_task=none/out.jsonl",
    "--data=data",
    words=["--make_task=none/out.jsonl cannot be written", "existing"],
  ),
  _choose(
    "seed",
    _TASK_FLAG,
    "--num_examples=1",
    "--seed=-1",
    words=["seed is -1", "2**32 - 1"],
  ),
  _choose(
    "little-text",
    "--make_task=out.jsonl",
    "--data=data",
    "--num_context_chunks=99999",
    words=["the text has 0 places"],
    needs=("calm", "data"),
  ),
  _generate("score", "--score_with=calm", words=["--score_data=TEXT"]),
]

_TYPOS = [
  Case(
    name=f"{name}-any-typo",
    command=[name, "--outptu=x"],
    words=["outptu"],
  )
  for name in _BINARIES
]

CASES = [
  *_PREPARE,
  *_TRAIN,
  *_EVALUATE,
  *_GENERATE,
  *_CONVERT,
  *_BENCHMARK,
  *_NGRAM,
  *_EXPLORE,
  *_CHOOSE,
  *_TYPOS,
]


def check_message(stderr: str, words: Sequence[str]) -> None:
  """At most three lines for a user, the last of which is the error."""
  lines = runs.terminal_lines(stderr)
  assert 1 <= len(lines) <= 3, stderr
  assert lines[-1].startswith("error: "), stderr
  assert not _NOISE.search(stderr), stderr
  for word in words:
    assert word in lines[-1], (word, stderr)


def _tree(directory) -> dict[str, str]:
  """Every file below, with its content's hash."""
  return {
    str(path.relative_to(directory)): (
      hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    )
    for path in sorted(directory.rglob("*"))
  }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mistake_is_named_and_changes_nothing(
  case, tmp_path, binaries, workspace
):
  workspace.copy(tmp_path, *case.needs)
  if case.before is not None:
    case.before(tmp_path)
  before = _tree(tmp_path)
  name, *arguments = case.command
  finished = binaries(
    name, *arguments, directory=tmp_path, file_size=case.file_size
  )
  check_message(finished.stderr, case.words)
  assert finished.code == 1
  after = {
    path: content
    for path, content in _tree(tmp_path).items()
    if path.split("/")[0] not in case.leaves
  }
  assert after == before


@pytest.mark.parametrize(
  ("name", "arguments", "words"),
  [
    ("prepare", ["--bytes", "--input=none.txt", "--output=x"], ["'none.txt'"]),
    ("train", ["--config=none.py", "--workdir=x"], ["'none.py'"]),
    ("evaluate", ["--checkpoint=none", "--data=x"], ["no directory", "none"]),
    ("generate", ["--checkpoint=none"], ["no directory", "none"]),
    ("convert", ["--source=none", "--target=x"], ["none has no config.json"]),
  ],
)
def test_a_mistake_as_users_start_it(name, arguments, words, tmp_path):
  """Nothing that importing prints, and nothing at exit, joins the message."""
  finished = subprocess.run(
    [sys.executable, "-m", f"launch.{name}", *arguments],
    cwd=tmp_path,
    env=runs.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert (finished.returncode, finished.stdout) == (1, "")
  assert len(finished.stderr.splitlines()) == 1
  check_message(finished.stderr, words)
  assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", _BINARIES)
def test_help_is_no_mistake(name, tmp_path, binaries):
  finished = binaries(name, "--help", directory=tmp_path)
  assert (finished.code, finished.stderr) == (0, "")
  assert f"python -m launch.{name}" in finished.stdout
  assert "\nflags:\n" in finished.stdout
  assert "--[no]debug: " in finished.stdout
  if name in ("train", "sweep"):
    assert "--coordinator_address: " in finished.stdout
  assert max(map(len, finished.stdout.splitlines())) <= 80


def test_what_works_prints_no_log_of_libraries(workspace):
  for command, stderr in workspace.printed.items():
    assert not _NOISE.search(stderr), (command, stderr)
    assert len(runs.terminal_lines(stderr)) <= 2, (command, stderr)
