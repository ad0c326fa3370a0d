"""All stages on text that every machine has, one after another."""

import dataclasses
import math
import sys
import textwrap
import time
from typing import Any

import tqdm
from etils import epath

from calm_jax import json_files
from calm_jax import paths as paths_lib
from calm_jax.checkpoint.run_directory import (
  LoadedRun,
  RunDirectory,
  content_hash,
  load_run,
)
from calm_jax.config import ExperimentConfig
from calm_jax.data import preparation
from calm_jax.data.store import TokenStore
from calm_jax.data.tokenizer import ByteTokenizer
from calm_jax.evaluation.prediction import PredictionSettings
from calm_jax.runs.continuation import TextGenerator
from calm_jax.runs.runner import evaluate_run
from calm_jax.sampling.settings import SamplingSettings
from calm_jax.workflows.terminal import say
from calm_jax.workflows.training import run_training

_NUM_ROWS = 128  # held-out windows scored
_PROMPT_LENGTH = 96  # bytes
_NUM_NEW = 96
_TEMPERATURE = 0.5
_NUM_CANDIDATES = 200


def run_quickstart(
  workdir: epath.PathLike,
  *,
  autoencoder: ExperimentConfig,
  calm: ExperimentConfig,
  scale: float = 1.0,
  seed: int = 0,
) -> dict[str, Any] | None:
  """Prepares, trains, scores and continues; goes on where it stopped.

  Args:
    workdir: gets `data`, `autoencoder`, `calm` and `results.json`.
    autoencoder: of the first training run, without its data.
    calm: of the second, without data and autoencoder.
    scale: factor on the training steps of both.
    seed: of parameters and noise of both.

  Returns:
    What `results.json` holds: scores of both models with their provenance,
    `continuations`, and `seconds` a stage; None if a signal stopped it.

  Raises:
    ValueError, OSError: if the workdir holds something else or is not writable.
  """
  if not 0 < scale < math.inf:
    raise ValueError(f"scale is {scale}; it is positive and finite.")
  autoencoder, calm = (
    dataclasses.replace(it, seed=seed) for it in (autoencoder, calm)
  )
  workdir = paths_lib.expanded(workdir)
  paths = {name: workdir / name for name in ("data", "autoencoder", "calm")}
  clock = _Clock()
  with clock.stage("prepare"):
    preparation.prepare(paths["data"], tokenizer=ByteTokenizer())
  with clock.stage("train_autoencoder"):
    is_stopped = _train(autoencoder, paths, "autoencoder", scale)
  if is_stopped:
    return None
  trained = load_run(paths["autoencoder"])
  with clock.stage("evaluate_autoencoder"):
    autoencoder_scores = _score(trained, paths["data"])
  calm = dataclasses.replace(calm, autoencoder_run=str(paths["autoencoder"]))
  _check_frozen(RunDirectory(paths["calm"]), trained)
  with clock.stage("train_calm"):
    is_stopped = _train(calm, paths, "calm", scale)
  if is_stopped:
    return None
  run = load_run(paths["calm"])
  with clock.stage("evaluate_calm"):
    calm_scores = _score(run, paths["data"])
  with clock.stage("generate"):
    continuations = _continue(run, TokenStore(paths["data"]))
  results = {
    "autoencoder": autoencoder_scores,
    "calm": calm_scores,
    "continuations": continuations,
    "seconds": clock.seconds,
  }
  json_files.write_json(workdir / "results.json", results)
  print(_report(results, workdir))
  return results


class _Clock:
  """Seconds a stage, and a line when one starts."""

  def __init__(self):
    self.seconds: dict[str, float] = {}
    self._name, self._start = "", 0.0

  def stage(self, name: str) -> "_Clock":
    self._name = name
    return self

  def __enter__(self) -> None:
    number = len(self.seconds) + 1
    title = self._name.replace("_", " ")
    print(f"\n[{number}/6] {title}", file=sys.stderr, flush=True)
    self._start = time.monotonic()

  def __exit__(self, *error: object) -> None:
    self.seconds[self._name] = round(time.monotonic() - self._start, 1)


def _train(
  config: ExperimentConfig,
  paths: dict[str, epath.Path],
  name: str,
  scale: float,
) -> bool:
  """Whether a signal stopped it, so that there is more to train."""
  optimizer = dataclasses.replace(
    config.optimizer,
    num_warmup_steps=round(scale * config.optimizer.num_warmup_steps),
  )
  config = dataclasses.replace(
    config,
    data=dataclasses.replace(config.data, path=str(paths["data"])),
    optimizer=optimizer,
    num_steps=max(1, round(scale * config.num_steps)),
  )
  if run_training(config, paths[name], name=name).reason != "stopped":
    return False
  say("stopped by a signal and saved; the same command goes on.")
  return True


def _check_frozen(run: RunDirectory, autoencoder: LoadedRun) -> None:
  """Raises ValueError if a CALM was begun on another autoencoder."""
  if not run.exists():
    return
  frozen = run.read_autoencoder(autoencoder.config.model)
  if content_hash(frozen) != content_hash(autoencoder.params):
    raise ValueError(
      f"{run.path} was begun on another autoencoder than the one in"
      f" {autoencoder.path}; remove it, or give another --workdir."
    )


def _score(run: LoadedRun, data: epath.Path) -> dict[str, Any]:
  settings = PredictionSettings(
    num_samples=8, permuted=run.config.model.predicts
  )
  with tqdm.tqdm(desc="evaluation", unit="row", total=_NUM_ROWS) as bar:
    scores = evaluate_run(
      run, str(data), settings, num_rows=_NUM_ROWS, rows_fn=bar.update
    )
    bar.total = bar.n  # of longer rows there may be fewer
  return scores


def _continue(run: LoadedRun, store: TokenStore) -> list[dict[str, str]]:
  """Continues the beginnings of three held-out stretches of text."""
  starts = [store.num_tokens("valid") * part // 7 for part in (1, 3, 5)]
  stretches = [
    store.read("valid", start, start + _PROMPT_LENGTH + _NUM_NEW)
    for start in starts
  ]
  decode = run.tokenizer.decode
  prompts = [decode(ids[:_PROMPT_LENGTH]) for ids in stretches]
  generator = TextGenerator(
    run,
    SamplingSettings(temperature=_TEMPERATURE, num_candidates=_NUM_CANDIDATES),
  )
  found = generator.continue_prompts(prompts, num_tokens=_NUM_NEW)
  return [
    {
      "prompt": prompt,
      "model": it[0].text,
      "real": decode(ids[_PROMPT_LENGTH:]),
    }
    for prompt, it, ids in zip(prompts, found, stretches, strict=True)
  ]


def _report(results: dict[str, Any], workdir: epath.Path) -> str:
  """What the terminal shows at the end."""
  autoencoder, calm = results["autoencoder"], results["calm"]
  rows = [
    ("bytes rebuilt from a sampled latent", autoencoder, "token_accuracy", 100),
    ("chunks of 4 bytes rebuilt", autoencoder, "chunk_accuracy", 100),
    *((f"Brier-{n}", calm, f"brier_{n}", 100) for n in (1, 2, 3, 4)),
  ]
  lines = ["", f"{'held-out score':38}{'%':>9}{'± stderr':>10}{'permuted':>10}"]
  for title, scores, name, factor in rows:
    cells = [
      _cell(scores.get(key), factor)
      for key in (name, f"{name}_stderr", f"{name}_permuted")
    ]
    lines.append(f"{title:38}{cells[0]:>9}{cells[1]:>10}{cells[2]:>10}")
  brier_lm = calm["brier_lm"]
  shown = f"{brier_lm:.2f}" if isinstance(brier_lm, float) else brier_lm
  lines += [f"{'BrierLM (0 … 100)':38}{shown:>9}", ""]
  for number, it in enumerate(results["continuations"], 1):
    for name in ("prompt", "model", "real"):
      head = f"{number} {name:>6} | " if name == "prompt" else f"  {name:>6} | "
      text = textwrap.shorten(repr(it[name])[1:-1], 110, placeholder=" …")
      lines.append(head + text)
  seconds = "   ".join(f"{k} {v:.0f}" for k, v in results["seconds"].items())
  minutes = sum(results["seconds"].values()) / 60
  lines += [
    "",
    f"seconds: {seconds}   (together {minutes:.1f} minutes)",
    "",
    _what_it_shows(calm),
    f"All numbers: {workdir}/results.json",
  ]
  return "\n".join(lines)


def _cell(value: float | None, factor: float) -> str:
  return "" if value is None else f"{factor * value:.2f}"


def _what_it_shows(calm: dict[str, Any]) -> str:
  """States plainly what minutes on two cores can and cannot show."""
  gain = calm["brier_1_minus_permuted"]
  errors = gain / max(calm["brier_1_minus_permuted_stderr"], 1e-12)
  if errors < 5:
    return textwrap.fill(
      "What this shows: every stage runs. The training was too short for more:"
      " Brier-1 is not clearly above that of the same model reading another"
      " window (permuted).",
      78,
    )
  return textwrap.fill(
    "What this shows: the latents give the text back, and what the model"
    " predicts depends on the text before it: Brier-1 is"
    f" {100 * gain:.1f} points, {errors:.0f} standard errors, above the same"
    " model reading another window (permuted). What it does not show: good"
    " text. That takes a larger vocabulary, a larger model and hours on an"
    " accelerator.",
    78,
  )
