"""Starts the binaries, and the small runs that they are started on."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.quick_compiling import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
# Apart from that of the tests: a killed process may leave half an entry.
_CACHE = ROOT / ".pytest_cache" / "jax_binaries"
_SECONDS = 600  # a machine may be busy; a run that hangs fails all the same


class Finished(NamedTuple):
  """How a binary ended."""

  code: int | None  # None: it had to be killed
  stdout: str
  stderr: str


def terminal_lines(text: str) -> list[str]:
  """The lines a terminal shows: a progress bar is drawn again over itself."""
  lines = [line.rsplit("\r", 1)[-1].strip() for line in text.split("\n")]
  return [line for line in lines if line]


def environment() -> dict[str, str]:
  """What a binary sees: one CPU device, and programs compiled before."""
  return {
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/"),
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "1",
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": xla_flags(1),
    "JAX_COMPILATION_CACHE_DIR": str(_CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
  }


class Running:
  """A binary that was started."""

  def __init__(self, ask: Callable[[dict], dict], request: dict):
    self._ask = ask
    self.pid: int = ask(request)["pid"]
    self.finished: Finished | None = None  # known once it was waited for
    self._stdout = self._stderr = ""

  def wait(self, seconds: float) -> Finished | None:
    """How it ended; None if it still runs after so many seconds."""
    if self.finished is None:
      answer = self._ask({"wait": self.pid, "seconds": seconds})
      self._stdout += answer["stdout"]
      self._stderr += answer["stderr"]
      if answer["code"] is not None:
        self.finished = Finished(answer["code"], self._stdout, self._stderr)
    return self.finished

  def send(self, number: int) -> None:
    """Sends a signal, if it still runs."""
    if self.wait(0) is None:
      os.kill(self.pid, number)


class Binaries:
  """Starts `launch.NAME` in forks; see `fork_server`."""

  def __init__(self):
    self._server = subprocess.Popen(
      [sys.executable, "-W", "ignore", "-m", "tests.integration.fork_server"],
      cwd=ROOT,
      env=environment(),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )

  def start(
    self,
    name: str,
    *arguments: str,
    directory: pathlib.Path,
    file_size: int | None = None,
    memory: int | None = None,
    environment: Mapping[str, str] | None = None,
  ) -> Running:
    """Starts a binary.

    Args:
      name: `train` for `python -m launch.train`.
      *arguments: its command line.
      directory: that it is started in.
      file_size: bytes that a file may have; a full disk, nearly.
      memory: bytes of address space.
      environment: variables beside those of `environment`.

    Returns:
      The process.
    """
    limits = {"RLIMIT_FSIZE": file_size, "RLIMIT_AS": memory}
    request = {
      "module": f"launch.{name}",
      "arguments": arguments,
      "directory": str(directory),
      "environment": dict(environment or {}),
      "limits": {name: it for name, it in limits.items() if it is not None},
    }
    return Running(self._ask, request)

  def __call__(
    self, name: str, *arguments: str, seconds: float = _SECONDS, **others: Any
  ) -> Finished:
    """Runs a binary to its end; see `start`. It is killed after `seconds`."""
    running = self.start(name, *arguments, **others)
    if running.wait(seconds) is None:
      running.send(signal.SIGKILL)
      return running.wait(seconds)._replace(code=None)
    return running.finished

  def close(self) -> None:
    self._server.stdin.close()
    self._server.wait(timeout=60)
    self._server.stdout.close()

  def _ask(self, request: dict) -> dict:
    self._server.stdin.write(json.dumps(request) + "\n")
    self._server.stdin.flush()
    return json.loads(self._server.stdout.readline())


class Workspace:
  """Small data and runs in one directory, made by the binaries themselves.

  train.jsonl valid.jsonl   documents
  data/  words/             prepared: bytes; SentencePiece pieces
  autoencoder/  calm/       runs of six steps, saved at 3 and 6
  published/                calm/ as a Hugging Face directory
  """

  def __init__(self, path: pathlib.Path, binaries: Binaries):
    self.path = path
    self._binaries = binaries
    self.printed: dict[str, str] = {}  # on stderr, by command line
    write_documents(path)
    self._start("prepare", *prepare_flags("data"), "--bytes")
    self._start("prepare", *prepare_flags("words"), "--vocab_size=300")
    self._start("train", *train_flags("autoencoder"), "--workdir=autoencoder")
    self._start("train", *train_flags("calm"), "--workdir=calm")
    self._start("generate", "--checkpoint=calm", "--num_tokens=4")
    self._start("evaluate", "--checkpoint=autoencoder", "--data=data")
    self._start("convert", "--source=calm", "--target=published", "--reverse")

  def copy(self, target: pathlib.Path, *names: str) -> None:
    """Copies files and directories of the workspace."""
    for name in names:
      source = self.path / name
      if source.is_dir():
        shutil.copytree(source, target / name)
      else:
        shutil.copy(source, target / name)

  def _start(self, name: str, *arguments: str) -> None:
    finished = self._binaries(name, *arguments, directory=self.path)
    assert finished.code == 0, finished.stderr
    self.printed[" ".join([name, *arguments])] = finished.stderr


def write_documents(path: pathlib.Path) -> None:
  """Writes train.jsonl and valid.jsonl."""
  documents = [f"Document {i} counts: {list(range(i))}." for i in range(60)]
  for name, part in (("train", documents), ("valid", documents[::10])):
    lines = [json.dumps({"text": text}) + "\n" for text in part]
    (path / f"{name}.jsonl").write_text("".join(lines))


def prepare_flags(output: str) -> list[str]:
  return [
    "--input=train.jsonl",
    "--valid_input=valid.jsonl",
    f"--output={output}",
  ]


def train_flags(stage: str, **changes: object) -> list[str]:
  """Flags of a tiny run, without its workdir.

  Args:
    stage: autoencoder or calm.
    **changes: fields of the config; `__` stands for the dot.
  """
  common = {
    "data__path": "data",
    "data__row_length": 32,
    "data__batch_size": 2,
    "model__hidden_size": 16,
    "model__ffn_size": 16,
    "optimizer__num_warmup_steps": 2,
    "num_steps": 6,
    "save_interval": 3,
    "log_interval": 2,
    "eval_interval": 0,
  }
  own = {
    "autoencoder": {"model__latent_size": 8},
    "calm": {
      "autoencoder_run": "autoencoder",
      "model__num_heads": 2,
      "model__num_layers": 1,
      "model__head__num_mlp_layers": 1,
      "model__head__num_samples": 2,
      "model__head__num_targets": 2,
    },
  }[stage]
  values = common | own | changes
  return [
    f"--config={ROOT}/experiments/{stage}.py:tiny",
    *(f"--config.{k.replace('__', '.')}={v}" for k, v in values.items()),
  ]
